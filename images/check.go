package images

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Arches are the architectures that images can be built for, as Debian names
// them.
func Arches() []string { return []string{"amd64"} }

const (
	maxCmdline = 1024 // COMMAND_LINE_SIZE is 2048 on amd64; the boot loader and muster add to it

	defaultMode = 0o644
)

var (
	nameRE    = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)
	packageRE = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`) // Debian Policy 5.6.7
	moduleRE  = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
)

// Check says everything that is wrong with a definition after inheritance. It
// fills in the default of a file's mode.
func (d *Definition) Check() error {
	var errs []error
	add := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	add(checkName(d.Name))
	add(checkArch(d.Arch))
	add(checkSuite(d.Suite))
	add(checkMirror(d.Mirror))
	add(checkKernel(d.Kernel))
	add(checkModules(d))
	for _, g := range d.Firmware {
		add(checkGroup("firmware", g, groupNames(FirmwareGroups(), func(g FirmwareGroup) string { return g.Name })))
	}
	add(checkUserland(d))
	for _, c := range d.GoCommands {
		add(checkGoCommand(c))
	}
	add(checkMedia(d.Media))
	add(d.Site.Check())
	add(d.checkFiles())
	add(checkAccounts(d))
	add(checkSysctls(d.Sysctls))
	add(checkServices(d))
	return errors.Join(errs...)
}

func checkName(name string) error {
	if name == "" {
		return errors.New("name: is missing")
	}
	if !nameRE.MatchString(name) {
		return fmt.Errorf("name: %q has to be lower case letters, digits, dots and dashes, at most 63", name)
	}
	return nil
}

func checkArch(arch string) error {
	if arch == "" {
		return fmt.Errorf("arch: is missing; give one of: %s, or inherit it with from: compute", strings.Join(Arches(), ", "))
	}
	if !slices.Contains(Arches(), arch) {
		return fmt.Errorf("arch: %s images cannot be built%s; can be: %s", arch, didYouMean(arch, Arches()), strings.Join(Arches(), ", "))
	}
	return nil
}

func checkSuite(suite string) error {
	if suite == "" {
		return errors.New("suite: is missing; give one, such as trixie, or inherit it with from: compute")
	}
	if _, err := OriginOf(suite); err != nil {
		return fmt.Errorf("suite: %w", err)
	}
	return nil
}

func checkMirror(mirror string) error {
	if mirror != "" && !strings.HasPrefix(mirror, "http://") && !strings.HasPrefix(mirror, "https://") {
		return fmt.Errorf("mirror: %q is no http:// or https:// URL", mirror)
	}
	return nil
}

func checkModules(d *Definition) error {
	var errs []error
	groups := groupNames(ModuleGroups(), func(g ModuleGroup) string { return g.Name })
	for _, g := range d.Modules.Groups {
		errs = append(errs, checkGroup("modules: groups", g, groups))
	}
	for _, name := range d.Modules.Names {
		if !moduleRE.MatchString(name) {
			errs = append(errs, fmt.Errorf("modules: names: %q cannot be the name of a kernel module%s", name, d.Where("modules.names", name)))
		}
	}
	return errors.Join(append(errs, checkOptions(d), checkRest(d))...)
}

// checkOptions looks for what modprobe.d(5) would read otherwise.
func checkOptions(d *Definition) error {
	var errs []error
	for _, name := range sortedKeys(d.Modules.Options) {
		text := d.Modules.Options[name]
		label := fmt.Sprintf("modules: options: %s%s", name, d.Where("modules.options", name))
		switch {
		case !moduleRE.MatchString(name):
			errs = append(errs, fmt.Errorf("%s: cannot be the name of a kernel module", label))
		case strings.TrimSpace(text) == "":
			errs = append(errs, fmt.Errorf("%s: has no parameters; they are like InterruptThrottleRate=1", label))
		case strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' || r == '\\' }):
			errs = append(errs, fmt.Errorf("%s: %q has characters other than printable ASCII, or a backslash", label, text))
		}
	}
	return errors.Join(errs...)
}

// checkRest looks at what becomes of the modules that joining does not need.
func checkRest(d *Definition) error {
	rest, rests := d.Modules.Rest, []string{RestFetch, RestNone}
	switch {
	case rest != "" && !slices.Contains(rests, rest):
		return fmt.Errorf("modules: rest: %q%s; can be: %s", rest, didYouMean(rest, rests), strings.Join(rests, ", "))
	case rest == RestFetch && !d.HasUserland():
		return errors.New("modules: rest: fetch needs a userland, which has the index of all modules; give packages, or leave rest out")
	}
	return nil
}

func groupNames[G any](groups []G, name func(G) string) []string {
	var names []string
	for _, g := range groups {
		names = append(names, name(g))
	}
	return names
}

// checkGoCommand allows what gives the same program each time: a package of
// a module at a version, or a folder of the host.
func checkGoCommand(c string) error {
	if strings.HasPrefix(c, "/") || isRelative(c) {
		return nil
	}
	pkg, version, ok := strings.Cut(c, "@")
	if !ok || version == "" || version == "latest" || pkg == "" {
		return fmt.Errorf("go-commands: %s needs a version (%s@v1.2.3), or is a folder and begins with ./ or /", c, strings.TrimSuffix(pkg, "@"))
	}
	return nil
}

var pemRE = regexp.MustCompile(`-----BEGIN (([A-Z0-9]+ )*PRIVATE KEY)( BLOCK)?-----`)

// privateKey names the kind of private key in data, or returns "".
func privateKey(data []byte) string {
	if m := pemRE.FindSubmatch(data); m != nil {
		return "a private key (" + string(m[1]) + ")"
	}
	if bytes.HasPrefix(data, []byte("PuTTY-User-Key-File-")) {
		return "a private key (PuTTY)"
	}
	if len(data) < 64<<10 && len(data) > 0 && data[0] == 0x30 { // an ASN.1 sequence
		if _, err := x509.ParsePKCS8PrivateKey(data); err == nil {
			return "a private key (PKCS #8)"
		}
		if _, err := x509.ParsePKCS1PrivateKey(data); err == nil {
			return "a private key (PKCS #1)"
		}
		if _, err := x509.ParseECPrivateKey(data); err == nil {
			return "a private key (SEC 1)"
		}
	}
	return ""
}
