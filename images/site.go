package images

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
)

// Media are the media that a definition may ask for.
func Media() []string { return []string{MediumNetboot, MediumISO, MediumUKI, MediumIMG} }

// The media of images.
const (
	MediumNetboot = "netboot" // boot programs for network boot
	MediumISO     = "iso"     // one file for CD and USB stick
	MediumUKI     = "uki"     // one UEFI program, which a site can sign
	MediumIMG     = "img"     // a disk with that program; made for who names it
)

// Site is what a medium tells the machines that boot from it: it is in the site
// segment of a medium and not in the image, so it has no influence on the
// image ID. All of it may be empty.
type Site struct {
	Head    string `yaml:"head" json:"head,omitempty"`       // address of the head, HOST or HOST:PORT
	Pin     string `yaml:"pin" json:"pin,omitempty"`         // SHA-256 of the head's public key, 64 hexadecimal digits
	Label   string `yaml:"label" json:"label,omitempty"`     // for people: shown by machines that boot from it
	Console string `yaml:"console" json:"console,omitempty"` // devices that show the machine's state: tty0,ttyS0
}

// maxSiteText bounds each text of a site.
const maxSiteText = 200

// ErrSite is found in what [Site.Check] returns.
var ErrSite = errors.New("wrong site")

// siteError is an ErrSite with a text of its own.
type siteError struct{ error }

func (siteError) Is(target error) bool { return target == ErrSite }

// Check says everything that is wrong with s.
func (s Site) Check() error {
	if err := s.check(); err != nil {
		return siteError{err}
	}
	return nil
}

func (s Site) check() error {
	var errs []error
	for _, v := range []struct{ key, text string }{{"head", s.Head}, {"pin", s.Pin}, {"label", s.Label}, {"console", s.Console}} {
		switch {
		case len(v.text) > maxSiteText:
			errs = append(errs, fmt.Errorf("site: %s has %d bytes, at most %d can be", v.key, len(v.text), maxSiteText))
		case strings.ContainsFunc(v.text, func(r rune) bool { return r < ' ' || r > '~' }):
			errs = append(errs, fmt.Errorf("site: %s %q has characters other than printable ASCII", v.key, v.text))
		}
	}
	if s.Head != "" && !isAddress(s.Head) {
		errs = append(errs, fmt.Errorf("site: head %q is no address; give a host name or IP address, and :PORT behind it if it is not the usual one", s.Head))
	}
	if s.Pin != "" && !sha256RE.MatchString(s.Pin) {
		errs = append(errs, fmt.Errorf("site: pin %q is not 64 hexadecimal digits; the head shows its pin in: muster status", s.Pin))
	}
	if s.Pin != "" && s.Head == "" {
		errs = append(errs, errors.New("site: there is a pin, but no head that it could be of; add head"))
	}
	for _, dev := range strings.FieldsFunc(s.Console, func(r rune) bool { return r == ',' }) {
		dev = strings.TrimPrefix(dev, "/dev/")
		if strings.ContainsAny(dev, "/ ") || dev == ".." || dev == "." {
			errs = append(errs, fmt.Errorf("site: console %q is no list of devices such as tty0,ttyS0", s.Console))
		}
	}
	return errors.Join(errs...)
}

func isAddress(s string) bool {
	host := s
	if h, port, err := net.SplitHostPort(s); err == nil {
		if _, err := net.LookupPort("tcp", port); err != nil || strings.Trim(port, "0123456789") != "" || port == "0" {
			return false
		}
		host = h
	} else if strings.Count(s, ":") == 1 {
		return false // a port that is none
	}
	host = strings.Trim(host, "[]")
	return host != "" && !strings.ContainsAny(host, " /@?#[]") && (net.ParseIP(host) != nil || !strings.Contains(host, ":"))
}

// JSON returns the one text form of s: /etc/muster/site.json.
func (s Site) JSON() []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic(fmt.Sprintf("encoding site: %v", err)) // strings only
	}
	return append(b, '\n')
}

// ParseSite reads what JSON wrote. Keys of later versions are ignored.
func ParseSite(data []byte) (Site, error) {
	var s Site
	if err := json.Unmarshal(data, &s); err != nil {
		return Site{}, fmt.Errorf("site: %w", atLine(data, err))
	}
	return s, nil
}

func mergeSite(base, child Site) Site {
	return Site{
		Head: either(child.Head, base.Head), Pin: either(child.Pin, base.Pin),
		Label: either(child.Label, base.Label), Console: either(child.Console, base.Console),
	}
}

func checkMedia(media []string) error {
	if media != nil && len(media) == 0 {
		return fmt.Errorf("media: the list is empty; leave it out for all of them, or give some of: %s", strings.Join(Media(), ", "))
	}
	var errs []error
	for _, m := range media {
		if !slices.Contains(Media(), m) {
			errs = append(errs, fmt.Errorf("media: there is no medium %q%s; there are: %s", m, didYouMean(m, Media()), strings.Join(Media(), ", ")))
		}
	}
	return errors.Join(errs...)
}

// Wants says whether d asks for a medium, and whether it does so by name: who names
// none wants all that can be made, but for the disk, which holds nothing that the UKI does not.
func (d *Definition) Wants(medium string) (wanted, named bool) {
	if d.Media == nil {
		return medium != MediumIMG, false
	}
	named = slices.Contains(d.Media, medium)
	return named, named
}
