package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"muster/api"
	"muster/api/client"
	"muster/pxe"
)

// headOptions is what belongs to the processes of a head; all else is a
// setting of the cluster.
type headOptions struct {
	State      string   // folder of all state
	Socket     string   // users' Unix socket
	Interfaces []string // on which machines boot; empty: none
	DHCP       string   // auto, full, proxy, off
	DHCPForce  bool
	TFTP, RA   bool
	MDNS       bool
	Images     []string // folders to publish at start
	HTTPPort   int
	FilesPort  int
	AgentsPort int
	APIPort    int
	NFSPort    int
	Engine     string // socket of somebody who serves folders for this head; "": its keeper does
	StartedBy  int    // uid of who started it: an administrator
	NoSync     bool
	Verbose    bool
}

// internalSocket is where the children of a head reach core.
func (o headOptions) internalSocket() string { return filepath.Join(o.State, "run", "core.sock") }

// engineSocket is where core asks the keeper to serve folders.
func (o headOptions) engineSocket() string {
	if o.Engine != "" {
		return o.Engine
	}
	return filepath.Join(o.State, "run", "nfs.sock")
}

// blobs is where core keeps what files serves.
func (o headOptions) blobs() string { return filepath.Join(o.State, "images", "blobs") }

const systemState = "/var/lib/muster"

func newHeadCommand() *cobra.Command {
	var o headOptions
	var noTFTP, noRA, noMDNS string
	c := &cobra.Command{
		Use:   "head",
		Short: "Run the head: boot machines, let them join, give them jobs",
		Long: `Run the head of a cluster. It boots machines on the interfaces that are named,
answers their agents, and takes jobs from users of this machine. Ctrl-C ends it;
machines and their tasks go on and come back when it is started again.

With --dhcp=auto the head first asks whether another DHCP server is on the
network. If so it adds only the boot answers (proxyDHCP); if not, it gives out
the addresses itself.`,
		Example: `  muster build compute
  sudo muster head --interface eth1 --image compute
  sudo muster head install --interface eth1        # as a service`,
		GroupID: "start",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.complete(noTFTP, noRA, noMDNS); err != nil {
				return err
			}
			return runHead(cmd.Context(), o, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := c.PersistentFlags()
	f.StringArrayVarP(&o.Interfaces, "interface", "i", envList("MUSTER_INTERFACE"), "network interface with this `name`: machines boot on it (repeat for more)")
	f.StringVar(&o.DHCP, "dhcp", envOr("MUSTER_DHCP", "auto"), "`mode`: auto, full, proxy or off")
	f.BoolVar(&o.DHCPForce, "dhcp-force", false, "give out addresses even beside another DHCP server")
	f.StringVar(&noTFTP, "tftp", "on", "`on|off`: send boot programs by TFTP")
	f.StringVar(&noRA, "ra", "on", "`on|off`: answer router solicitations, which spares iPXE 16 seconds")
	f.StringVar(&noMDNS, "mdns", "on", "`on|off`: machines that were told no head find this one by multicast DNS")
	f.StringArrayVar(&o.Images, "image", nil, "`folder` of an image to publish at start (repeat for more; the first is the default)")
	f.StringVar(&o.State, "state", os.Getenv("MUSTER_STATE"), "`folder` of all state (default "+systemState+", or below your home without root)")
	f.IntVar(&o.HTTPPort, "http-port", 80, "`port` of boot scripts and boot programs")
	f.IntVar(&o.FilesPort, "files-port", 7480, "`port` of kernels and initramfs")
	f.IntVar(&o.AgentsPort, "agents-port", 7421, "`port` of agents")
	f.IntVar(&o.APIPort, "api-port", 7443, "`port` of the users' API by HTTPS; 0: only the Unix socket")
	f.IntVar(&o.NFSPort, "nfs-port", 2049, "`port` of nfs-ganesha, where that serves folders of the head")
	f.BoolVarP(&o.Verbose, "verbose", "v", false, "log every packet and request")
	f.BoolVar(&o.NoSync, "no-sync", false, "do not wait for the disk: a power cut loses what was acknowledged (for tests)")
	f.Lookup("no-sync").Hidden = true
	f.StringVar(&o.Engine, "nfs-engine", "", "`socket` of who serves folders for this head (for the demo)")
	f.Lookup("nfs-engine").Hidden = true
	for name, complete := range map[string]cobra.CompletionFunc{
		"interface": cobra.FixedCompletions(interfaceNames(), cobra.ShellCompDirectiveNoFileComp),
		"dhcp":      words("auto", "full", "proxy", "off"), "tftp": words("on", "off"), "ra": words("on", "off"), "mdns": words("on", "off"),
		"image": folders, "state": folders,
	} {
		_ = c.RegisterFlagCompletionFunc(name, complete)
	}
	c.AddCommand(newHeadInstallCommand(&o), newHeadUninstallCommand())
	return c
}

func envOr(key, def string) string {
	if v := os.Getenv(key); v != "" {
		return v
	}
	return def
}

func envList(key string) []string {
	if v := os.Getenv(key); v != "" {
		return strings.Split(v, ",")
	}
	return nil
}

// complete checks the options and fills in defaults.
func (o *headOptions) complete(tftp, ra, mdns string) error {
	for _, s := range []struct {
		flag, value string
		to          *bool
	}{{"tftp", tftp, &o.TFTP}, {"ra", ra, &o.RA}, {"mdns", mdns, &o.MDNS}} {
		switch s.value {
		case "on":
			*s.to = true
		case "off":
		default:
			return usagef("--%s=%s: say on or off", s.flag, s.value)
		}
	}
	switch o.DHCP {
	case "auto", "full", "proxy", "off":
	default:
		return usagef("--dhcp=%s: say auto, full, proxy or off", o.DHCP)
	}
	for flag, p := range map[string]int{"http-port": o.HTTPPort, "files-port": o.FilesPort, "agents-port": o.AgentsPort, "nfs-port": o.NFSPort} {
		if p < 1 || p > 65535 {
			return usagef("--%s=%d: ports go from 1 to 65535", flag, p)
		}
	}
	if o.APIPort < 0 || o.APIPort > 65535 {
		return usagef("--api-port=%d: ports go from 1 to 65535, and 0 is none", o.APIPort)
	}
	for _, name := range o.Interfaces {
		if _, err := net.InterfaceByName(name); err != nil {
			return usagef("--interface %s: there is no such interface; this machine has %s", name, strings.Join(interfaceNames(), ", "))
		}
	}
	if o.State == "" {
		dir, err := client.DefaultState()
		if err != nil {
			return err
		}
		o.State = dir
	}
	o.StartedBy = os.Getuid()
	abs, err := filepath.Abs(o.State)
	if err != nil {
		return err
	}
	o.State = abs
	o.Socket = filepath.Join(o.State, "run", "head.sock")
	if o.State == systemState && os.Geteuid() == 0 {
		o.Socket = client.SystemSocket
	}
	for i, dir := range o.Images {
		// A head that has images goes on with them, see runHead.
		_, first := os.Stat(filepath.Join(o.State, "images", "names.json"))
		if _, err := os.Stat(filepath.Join(dir, "manifest.json")); err != nil && first != nil {
			return usagef("--image %s is no image: %w; build one with: muster build compute --output %s", dir, err, dir)
		}
		if o.Images[i], err = filepath.Abs(dir); err != nil {
			return err
		}
	}
	return nil
}

func interfaceNames() []string {
	ifs, err := net.Interfaces()
	if err != nil {
		return nil
	}
	var names []string
	for _, i := range ifs {
		names = append(names, i.Name)
	}
	return names
}

// runHead is the keeper: it opens every socket, starts the children, and
// says what is served.
func runHead(ctx context.Context, o headOptions, stdout, stderr io.Writer) error {
	log := newLogger(stderr, o.Verbose).With("part", "keeper")
	cred, err := childUser()
	if err != nil {
		return err
	}
	if err := prepareState(o, cred); err != nil {
		return err
	}
	sockets, err := openSocketsSoon(ctx, o, cred)
	if err != nil {
		return err
	}
	defer closeAll(sockets)
	specs := []childSpec{
		{name: "core", user: cred, files: pick(sockets, "agents", "api", "api-tls", "internal")},
		{name: "files", user: cred, files: pick(sockets, "files")},
	}
	if len(o.Interfaces) > 0 {
		specs = append(specs, childSpec{name: "boot", user: cred, files: without(sockets, "agents", "api", "api-tls", "internal", "files")})
	}
	if cred == nil && os.Geteuid() == 0 {
		log.Info("there is no user muster: the head's processes stay root without capabilities; muster head install makes the user")
	}
	if o.DHCP == "auto" && len(o.Interfaces) > 0 {
		fmt.Fprintf(stdout, "looking for other DHCP servers on %s\n", strings.Join(o.Interfaces, ", "))
	}
	if o.Engine == "" {
		stopEngine, err := startEngine(ctx, o, cred, log.With("part", "nfs"))
		if err != nil {
			return err
		}
		defer stopEngine()
	}
	return keep(ctx, o, specs, log, func() error {
		// A head that has images serves them although a folder that was named
		// is gone, as after a clean-up between two starts of the service.
		err := publishAtStart(ctx, o, stdout)
		if err != nil {
			fmt.Fprintf(stderr, "muster: error: publishing at start: %v; the head goes on with the images that it has\n", err)
		}
		if err := writeBanner(ctx, o, stdout); err != nil && ctx.Err() == nil {
			fmt.Fprintf(stderr, "muster: error: %v\n", err)
		}
		return nil
	})
}

// childUser is who the children run as: the user muster where root starts the
// head and that user exists, else nil.
func childUser() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("muster")
	var unknown user.UnknownUserError
	if errors.As(err, &unknown) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking up the user muster: %w", err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("the ids of the user muster: %w", err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// prepareState makes the state folder, which belongs to the children's user.
func prepareState(o headOptions, cred *syscall.Credential) error {
	dirs := []struct {
		path string
		mode os.FileMode
	}{
		{o.State, 0o700},
		{filepath.Join(o.State, "run"), 0o755},
		{filepath.Dir(o.Socket), 0o755},
	}
	// Users of the machine reach the socket below a state folder of one's
	// own only if they may pass through it.
	if filepath.Dir(o.Socket) == filepath.Join(o.State, "run") {
		dirs[0].mode = 0o711
	}
	for _, d := range dirs {
		if err := os.MkdirAll(d.path, d.mode); err != nil {
			return fmt.Errorf("making the folder %s: %w; name another with --state", d.path, cause(err))
		}
		if err := os.Chmod(d.path, d.mode); err != nil {
			return fmt.Errorf("setting the rights of the state folder: %w", err)
		}
	}
	if cred == nil {
		return nil
	}
	return filepath.WalkDir(o.State, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path == filepath.Join(o.State, "nfs") && d.IsDir() {
			return filepath.SkipDir // the keeper's own
		}
		return os.Lchown(path, int(cred.Uid), int(cred.Gid))
	})
}

// The processes of a head that was killed a moment ago still have its sockets
// for some milliseconds: a new one waits for them before it gives up.
const (
	socketsWait  = 2 * time.Second
	socketsRetry = 50 * time.Millisecond
)

var errHeadRuns = errors.New("a head runs already with this state folder")

func openSocketsSoon(ctx context.Context, o headOptions, cred *syscall.Credential) (map[string]*os.File, error) {
	for start := time.Now(); ; {
		sockets, err := openSockets(ctx, o, cred)
		taken := errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, errHeadRuns)
		if !taken || time.Since(start) > socketsWait {
			return sockets, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(socketsRetry):
		}
	}
}

// openSockets opens every socket of a head, by name.
func openSockets(ctx context.Context, o headOptions, cred *syscall.Credential) (_ map[string]*os.File, err error) {
	files := map[string]*os.File{}
	defer func() {
		if err != nil {
			closeAll(files)
		}
	}()
	unixSockets := []struct {
		name, path string
		mode       os.FileMode
	}{{"api", o.Socket, 0o666}, {"internal", o.internalSocket(), 0o600}}
	for _, s := range unixSockets {
		f, err := listenUnix(s.path, s.mode, cred)
		if err != nil {
			return files, err
		}
		files[s.name] = f
	}
	tcp := map[string]int{"files": o.FilesPort, "agents": o.AgentsPort}
	if o.APIPort != 0 {
		tcp["api-tls"] = o.APIPort
	}
	for name, port := range tcp {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			return files, portError(name, port, err)
		}
		f, err := l.(*net.TCPListener).File()
		l.Close()
		if err != nil {
			return files, err
		}
		files[name] = f
	}
	if len(o.Interfaces) == 0 {
		return files, nil
	}
	cfg := pxe.ListenConfig{Interfaces: o.Interfaces, HTTP: fmt.Sprintf(":%d", o.HTTPPort), DHCP: o.DHCP != "off", NoRA: !o.RA}
	if o.TFTP {
		cfg.TFTP = ":69"
	}
	s, err := pxe.Listen(ctx, cfg)
	if errors.Is(err, syscall.EADDRINUSE) && strings.Contains(err.Error(), fmt.Sprintf("port %d ", o.HTTPPort)) {
		return files, portError("http", o.HTTPPort, syscall.EADDRINUSE)
	}
	if err != nil {
		return files, err
	}
	defer s.Close()
	names, passed, err := s.Files()
	if err != nil {
		return files, err
	}
	for i, name := range names {
		files[name] = passed[i]
	}
	if o.MDNS {
		return files, openMDNS(ctx, o.Interfaces, files)
	}
	return files, nil
}

// takenError says that a port is taken; it is EADDRINUSE.
type takenError struct{ text string }

func (e takenError) Error() string { return e.text }
func (e takenError) Unwrap() error { return syscall.EADDRINUSE }

func portError(what string, port int, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return takenError{fmt.Sprintf("port %d is taken: another head or program listens there (ss -ltnp shows which); choose another with --%s-port",
			port, strings.TrimSuffix(what, "-tls"))}
	}
	return fmt.Errorf("listening on port %d: %w", port, cause(err))
}

// listenUnix opens a Unix socket at path in place of one that nobody listens
// on any more.
func listenUnix(path string, mode os.FileMode, cred *syscall.Credential) (*os.File, error) {
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return nil, fmt.Errorf("%w (it answers on %s); end it first, or name another folder with --state", errHeadRuns, path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("replacing the socket of an earlier head: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("opening the socket %s: %w", path, cause(err))
	}
	ul := l.(*net.UnixListener)
	ul.SetUnlinkOnClose(false)
	defer ul.Close()
	if err := os.Chmod(path, mode); err != nil {
		return nil, err
	}
	if cred != nil {
		if err := os.Chown(path, int(cred.Uid), int(cred.Gid)); err != nil {
			return nil, err
		}
	}
	return ul.File()
}

func closeAll(files map[string]*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// pick returns the named ones of files that exist.
func pick(files map[string]*os.File, names ...string) map[string]*os.File {
	out := map[string]*os.File{}
	for _, n := range names {
		if f, ok := files[n]; ok {
			out[n] = f
		}
	}
	return out
}

// without returns files but the named ones.
func without(files map[string]*os.File, names ...string) map[string]*os.File {
	out := map[string]*os.File{}
	for n, f := range files {
		out[n] = f
	}
	for _, n := range names {
		delete(out, n)
	}
	return out
}

// publishAtStart publishes the images that were named on the command line.
func publishAtStart(ctx context.Context, o headOptions, w io.Writer) error {
	if len(o.Images) == 0 {
		return nil
	}
	c, err := client.New(o.Socket)
	if err != nil {
		return err
	}
	for i, dir := range o.Images {
		first := i == 0
		img, err := publish(ctx, c, dir, &first)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "image %s (%s, kernel %s, %s) is published\n", img.Name, short(img.ID), img.Kernel, size(img.Bytes))
	}
	return nil
}

// writeBanner says what is served and what to do next.
func writeBanner(ctx context.Context, o headOptions, w io.Writer) error {
	c, err := client.New(o.Socket)
	if err != nil {
		return err
	}
	s, err := c.Status(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "muster head %s, fingerprint %s\n", s.Version, s.Fingerprint)
	fmt.Fprintf(w, "agents on port %d, files on port %d", o.AgentsPort, o.FilesPort)
	if o.APIPort != 0 {
		fmt.Fprintf(w, ", API on port %d", o.APIPort)
	}
	fmt.Fprintf(w, ", users of this machine on %s\n", o.Socket)
	for _, i := range s.Boot {
		fmt.Fprintf(w, "%s %s: DHCP %s (%s)\n", i.Name, i.Addr, i.DHCP, i.Reason)
	}
	for _, line := range nextSteps(o, s) {
		fmt.Fprintln(w, line)
	}
	return nil
}

// nextSteps says what a person does next with a head that just started.
func nextSteps(o headOptions, s api.Status) []string {
	at := ""
	if o.Socket != client.SystemSocket {
		at = "--head " + o.Socket + " "
	}
	switch {
	case s.Image == "":
		return []string{"no image yet: muster build compute && muster " + at + "image publish compute"}
	case len(o.Interfaces) == 0:
		return []string{"machines do not boot here: name the interface they are on, as in --interface eth1"}
	}
	return []string{
		"boot machines from the network, then: muster " + at + "node list",
		enrollmentText(s.Enrollment, s.Started),
	}
}
