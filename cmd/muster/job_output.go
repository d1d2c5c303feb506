package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"muster/api"
)

// filesLook is how often a file that a job writes is looked at.
const filesLook = 200 * time.Millisecond

// outputFile is a file that tasks of a job write to, and where it is to be printed.
type outputFile struct {
	path string
	to   io.Writer
	off  int64 // what of it was printed
}

// outputFiles are the files that a job writes to in place of the head, of all its tasks or of one.
func outputFiles(j api.Job, task int, out, errOut io.Writer) []*outputFile {
	var files []*outputFile
	seen := map[string]bool{}
	for i := range max(len(j.Tasks), j.Spec.Tasks) {
		if task >= 0 && task != i {
			continue
		}
		name := strings.NewReplacer("%j", strconv.FormatUint(j.ID, 10), "%t", strconv.Itoa(i), "%%", "%")
		for _, f := range []outputFile{{path: j.Spec.Output, to: out}, {path: j.Spec.Errors, to: errOut}} {
			f.path = name.Replace(api.DecodeText(f.path))
			if f.path != "" && !seen[f.path] {
				seen[f.path] = true
				files = append(files, &f)
			}
		}
	}
	return files
}

// writtenFiles is outputFiles, and says which they are.
func writtenFiles(j api.Job, task int, out, errOut io.Writer) []*outputFile {
	files := outputFiles(j, task, out, errOut)
	if len(files) > 0 {
		fmt.Fprintf(errOut, "muster: output of job %d: %s\n", j.ID, harmless(outputOf(j)))
	}
	return files
}

// withFiles prints what a job writes into files while stay is with the job, and what is left when that
// returns. A file that is not there, or not here, is named in the end.
func withFiles(ctx context.Context, files []*outputFile, errOut io.Writer, stay func() error) error {
	if len(files) == 0 {
		return stay()
	}
	looking, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		tick := time.NewTicker(filesLook)
		defer tick.Stop()
		for {
			for _, f := range files {
				if err := f.print(); isWriteError(err) {
					done <- err
					return
				}
			}
			select {
			case <-tick.C:
			case <-looking.Done():
				done <- nil
				return
			}
		}
	}()
	err := stay()
	cancel()
	if werr := <-done; werr != nil || err != nil {
		return errors.Join(err, werr)
	}
	for _, f := range files {
		switch err := f.print(); {
		case isWriteError(err):
			return err
		case err != nil && f.off == 0:
			fmt.Fprintf(errOut, "muster: %s is not to be read here: %v\n", harmless(f.path), cause(err))
		}
	}
	return nil
}

// writeError is an error of where a file is printed.
type writeError struct{ error }

func isWriteError(err error) bool {
	var w writeError
	return errors.As(err, &w)
}

// Write implements io.Writer.
func (f *outputFile) Write(b []byte) (int, error) {
	n, err := f.to.Write(b)
	f.off += int64(n)
	if err != nil {
		err = writeError{err}
	}
	return n, err
}

// print prints what is new in the file. It is opened each time: an NFS client then asks its server.
func (f *outputFile) print() error {
	r, err := os.OpenFile(f.path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer r.Close()
	st, err := r.Stat()
	if err == nil && !st.Mode().IsRegular() {
		return fmt.Errorf("it is no regular file")
	}
	if err == nil {
		_, err = r.Seek(f.off, io.SeekStart)
	}
	if err == nil {
		_, err = io.Copy(f, r)
	}
	return err
}
