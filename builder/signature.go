package builder

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"muster/builder/uki"
	"muster/images"
)

// Signature says by whom a UKI is signed, over the bytes that it has.
type Signature struct {
	Subject  string    `json:"subject"`
	Issuer   string    `json:"issuer"`
	SHA256   string    `json:"sha256"` // of the certificate
	NotAfter time.Time `json:"not_after"`
}

// readSignature checks the signatures of a UKI and tells of the first.
func (c *Checked) readSignature(o *openedUKI) error {
	by, err := o.Signatures()
	if err != nil {
		return err
	}
	if len(by) == 0 {
		c.What += ", not signed"
		return nil
	}
	c.signer = by[0]
	c.Signature = &Signature{
		Subject: by[0].Subject.String(), Issuer: by[0].Issuer.String(), SHA256: uki.Fingerprint(by[0]), NotAfter: by[0].NotAfter,
	}
	c.What += ", signed by " + c.Signature.Subject
	return nil
}

// verifyUKI checks a UKI, or the one on a disk, with the manifest beside it. What is in it is
// compared with the files of the image before the whole is, so that the error is about the part.
func verifyUKI(name string, m *images.Manifest, a images.Artifact, c *Checked) error {
	o, err := verifyAlone(name, c)
	if err != nil {
		return err
	}
	c.Against = againstManifest
	if err := sameMedium(m, a, c); err != nil {
		return err
	}
	if err := errors.Join(sameParts(o.uki, m), sameSigner(c.Signature, a.Signer)); err != nil {
		return err
	}
	if a.Site != nil {
		return sameWithoutSite(name, a)
	}
	return sameHash(name, a)
}

// sameParts compares what is in a UKI with the files that the manifest lists.
func sameParts(o *openedUKI, m *images.Manifest) error {
	var errs []error
	part := func(what string, data []byte, kind images.ArtifactKind) {
		if want, ok := m.File(kind); !ok || hashBytes(data) != want.SHA256 {
			errs = append(errs, fmt.Errorf("the %s in it has SHA-256 %s, the manifest says %s", what, hashBytes(data), want.SHA256))
		}
	}
	text := func(section, want string) {
		if s, _ := o.Section(section); string(s.Data) != want {
			errs = append(errs, fmt.Errorf("section %s says %q, want %q as in the manifest", section, s.Data, want))
		}
	}
	kernel, _ := o.Section(sectionKernel)
	initrd, _ := o.Section(sectionInitramfs)
	part("kernel", kernel.Data, images.KindKernel)
	part("initramfs", initrd.Data[:o.list.Initramfs], images.KindInitramfs)
	text(sectionCmdline, ukiCmdline(m.Cmdline, m.ID))
	text(sectionRelease, m.Kernel)
	return errors.Join(errs...)
}

// sameSigner compares a signature, nil for none, with what the manifest says.
func sameSigner(s *Signature, want string) error {
	switch {
	case s == nil && want != "":
		return fmt.Errorf("it is not signed, the manifest says that it is, with certificate %s", want)
	case s != nil && want == "":
		return fmt.Errorf("it is signed by %s, the manifest says that it is not signed", s.Subject)
	case s != nil && s.SHA256 != want:
		return fmt.Errorf("it is signed with certificate %s, the manifest says %s", s.SHA256, want)
	}
	return nil
}

// VerifySigned is [Verify] that demands a signature: of a UKI and of a disk with one, by the key
// of cert or of a certificate that this key signed. A folder has to have one of them.
func VerifySigned(name string, cert *x509.Certificate) ([]Checked, error) {
	checked, err := Verify(name)
	if err != nil {
		return checked, err
	}
	found := false
	var errs []error
	for _, c := range checked {
		if c.Kind != string(images.KindUKI) && c.Kind != string(images.KindIMG) {
			continue
		}
		found = true
		switch {
		case c.signer == nil:
			errs = append(errs, fmt.Errorf("verifying %s: it is not signed", c.Name))
		case !isFrom(c.signer, cert):
			errs = append(errs, fmt.Errorf("verifying %s: it is signed by %s (SHA-256 %s), want %s (SHA-256 %s)",
				c.Name, c.signer.Subject, uki.Fingerprint(c.signer), cert.Subject, uki.Fingerprint(cert)))
		}
	}
	if !found {
		errs = append(errs, fmt.Errorf("verifying %s: there is nothing that could be signed in it: neither a UKI nor a disk with one", name))
	}
	return checked, errors.Join(errs...)
}

// isFrom says whether firmware that has cert in its list takes a signature by signer.
func isFrom(signer, cert *x509.Certificate) bool {
	return signer.Equal(cert) || bytes.Equal(signer.RawIssuer, cert.RawSubject) &&
		cert.CheckSignature(signer.SignatureAlgorithm, signer.RawTBSCertificate, signer.Signature) == nil
}
