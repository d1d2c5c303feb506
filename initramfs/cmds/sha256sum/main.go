// Command sha256sum prints or checks SHA-256 sums of files.
//
// Synopsis:
//
//	sha256sum [-b] [FILE]…
//	sha256sum -c [FILE]…
//
// FILE may be "-" for the standard input, which is also read when there is none.
// Exit status: 0, or 1 if a file could not be read or a sum differs.
package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	os.Exit(run(os.Stdin, os.Stdout, os.Stderr, os.Args[1:]))
}

func run(stdin io.Reader, stdout, stderr io.Writer, args []string) int {
	check := false
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' {
		switch args[0] {
		case "-c", "--check":
			check = true
		case "-b", "-t", "--binary", "--text", "--":
		default:
			fmt.Fprintf(stderr, "sha256sum: unknown option %s; usage: sha256sum [-c] [FILE]\n", args[0])
			return 1
		}
		args = args[1:]
	}
	if len(args) == 0 {
		args = []string{"-"}
	}
	each := printSum
	if check {
		each = checkSums
	}
	status := 0
	for _, name := range args {
		if err := each(stdin, stdout, name); err != nil {
			fmt.Fprintf(stderr, "sha256sum: %v\n", err)
			status = 1
		}
	}
	return status
}

func printSum(stdin io.Reader, stdout io.Writer, name string) error {
	sum, err := sumFile(stdin, name)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "%s  %s\n", sum, name)
	return err
}

func sumFile(stdin io.Reader, name string) (string, error) {
	h := sha256.New()
	if name == "-" {
		_, err := io.Copy(h, stdin)
		return hex.EncodeToString(h.Sum(nil)), err
	}
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	_, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), err
}

// checkSums checks the files that are listed in the file name.
func checkSums(stdin io.Reader, stdout io.Writer, name string) error {
	list := stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		list = f
	}
	bad := 0
	for sc := bufio.NewScanner(list); sc.Scan(); {
		want, file, ok := strings.Cut(sc.Text(), " ")
		if file = strings.TrimPrefix(strings.TrimPrefix(file, " "), "*"); !ok || len(want) != 2*sha256.Size {
			return fmt.Errorf("%s: %.60q is not SUM  FILE", name, sc.Text())
		}
		word := "OK"
		if got, err := sumFile(stdin, file); err != nil {
			word = fmt.Sprintf("FAILED (%v)", err)
		} else if !strings.EqualFold(got, want) {
			word = "FAILED"
		}
		if word != "OK" {
			bad++
		}
		fmt.Fprintf(stdout, "%s: %s\n", file, word)
	}
	if bad > 0 {
		return errors.New("some files are not what they should be")
	}
	return nil
}
