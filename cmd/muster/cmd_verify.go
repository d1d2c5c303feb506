package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"muster/builder"
	"muster/builder/uki"
	"muster/images"
)

func newVerifyCommand() *cobra.Command {
	var asJSON bool
	var certFile string
	c := &cobra.Command{
		Use:   "verify FILE|DIR",
		Short: "Check an image, an ISO file or a USB stick, and say what it is",
		Long: `Check what a build wrote, without booting it: a folder with an image, one of its
files, or the stick that one was written to. Boot records, partition tables,
file systems, the initramfs, the sections and the signature of a UEFI program
are read anew, and every file is compared with the manifest, the lock too. Where
there is no manifest beside a file, a medium and an initramfs are compared with
the list in them, a kernel with its signature; a userland and a lock are read.
Nothing is changed. The site segment of a medium (muster personalize) has no
influence. Other files in the folder are passed over.

Exit status: 0 all is as it should be, 1 something differs (it is named), 2
wrong use.`,
		Example: "  muster verify build/compute\n  muster verify build/compute/compute.iso\n  muster verify build/compute --cert site.crt\n  sudo muster verify /dev/sdb",
		GroupID: "start",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			verify := builder.Verify
			if certFile != "" {
				cert, err := readCertificate(certFile)
				if err != nil {
					return err
				}
				verify = func(name string) ([]builder.Checked, error) { return builder.VerifySigned(name, cert) }
			}
			if _, err := os.Stat(args[0]); errors.Is(err, os.ErrNotExist) {
				return usageError{err}
			}
			checked, err := verify(args[0])
			if asJSON {
				return errors.Join(writeJSON(cmd.OutOrStdout(), struct {
					Items []builder.Checked `json:"items"`
				}{checked}), err)
			}
			return errors.Join(writeChecked(cmd.OutOrStdout(), checked), err)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	c.Flags().StringVar(&certFile, "cert", "", "demand that NAME.efi and NAME.img are signed by the key of the certificate in this `file`")
	return c
}

// readCertificate reads the certificate that a signature shall be of.
func readCertificate(name string) (*x509.Certificate, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, usagef("reading the certificate: %w", err)
	}
	chain, err := uki.ParseCertificates(data)
	if err != nil {
		return nil, usagef("certificate %s: %w", name, err)
	}
	return chain[0], nil
}

func writeChecked(w io.Writer, checked []builder.Checked) error {
	for _, c := range checked {
		against := "compared with " + c.Against
		if c.Against == "" {
			against = "read as a whole; no manifest.json beside it says what it should be"
		}
		if _, err := fmt.Fprintf(w, "ok  %s: %s (%s)\n", c.Name, c.What, against); err != nil {
			return err
		}
		if c.Medium != nil {
			if err := writeMedium(w, c.Medium, c.Signature != nil); err != nil {
				return err
			}
			if s := c.Signature; s != nil {
				if _, err := fmt.Fprintf(w, "    cert  %s, to %s\n", s.SHA256, s.NotAfter.UTC().Format(time.DateOnly)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// writeMedium prints what a medium is made for.
func writeMedium(w io.Writer, m *builder.Medium, signed bool) error {
	s := m.Site
	switch {
	case s.Head == "" && signed:
		s.Head = "none: machines will not know where to join; give one under site: in the definition and build it again"
	case s.Head == "":
		s.Head = "none: machines will not know where to join; give one with muster personalize"
	}
	_, err := fmt.Fprintf(w, "    image %s\n    head  %s\n    pin   %s\n    label %s\n", short(m.ID), s.Head, orDash(s.Pin), orDash(s.Label))
	if err == nil && s.Console != "" {
		_, err = fmt.Fprintf(w, "    console %s\n", s.Console)
	}
	return err
}

func newPersonalizeCommand() *cobra.Command {
	var want images.Site
	c := &cobra.Command{
		Use:   "personalize FILE",
		Short: "Tell an ISO file or USB stick which head its machines join",
		Long: `Rewrite the site segment of an ISO file, a NAME.efi, a NAME.img, or of the stick
that it was written to, in place. What is not given stays as it is; an empty
value ("") takes it away. Nothing is built anew, and muster verify still accepts
the medium. One that is signed is refused, as the signature covers the site. The
head's pin is shown by: muster status.`,
		Example: `  muster personalize compute.iso --head 10.77.0.1 --pin 5f0c...
  sudo muster personalize /dev/sdb --head head.example.org`,
		GroupID: "start",
		Args:    cobra.ExactArgs(1),
	}
	f := c.Flags()
	f.StringVar(&want.Head, "head", "", "`address` of the head, HOST or HOST:PORT")
	f.StringVar(&want.Pin, "pin", "", "SHA-256 of the head's public key, 64 hexadecimal digits")
	f.StringVar(&want.Label, "label", "", "`text` that the machines show")
	f.StringVar(&want.Console, "console", "", "`devices` that show the machine's state, such as tty0,ttyS0")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		changed := 0
		change := func(now images.Site) images.Site {
			for name, v := range map[string]struct{ to, from *string }{
				"head": {&now.Head, &want.Head}, "pin": {&now.Pin, &want.Pin},
				"label": {&now.Label, &want.Label}, "console": {&now.Console, &want.Console},
			} {
				if f.Changed(name) {
					*v.to = *v.from
				}
			}
			return now
		}
		for _, name := range []string{"head", "pin", "label", "console"} {
			if f.Changed(name) {
				changed++
			}
		}
		if changed == 0 {
			return usagef("nothing to change: give --head, --pin, --label or --console; what a medium says now is shown by: muster verify %s", args[0])
		}
		m, err := builder.Personalize(args[0], change)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, images.ErrSite) {
			return usageError{err}
		}
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: image %s\n", args[0], m.Name); err != nil {
			return err
		}
		return writeMedium(cmd.OutOrStdout(), m, false)
	}
	return c
}
