package nodeagent

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/nats-io/nats.go"

	"muster/api"
	"muster/nodeagent/task"
)

// etcNames are the files that the head gives for the tasks' /etc.
var etcNames = []string{"passwd", "group", "hosts", "resolv.conf"}

func (s *session) onConfig(msg *nats.Msg) {
	var c api.NodeConfig
	if s.decode(msg, &c) {
		s.ack(msg, s.a.configure(c))
	}
}

// configure makes the node what the head wants it to be. What takes long is done later, and
// heartbeats say how far it is.
func (a *Agent) configure(c api.NodeConfig) error {
	for i, text := range []string{c.Passwd, c.Group, c.Hosts, c.Resolv} {
		if err := writeEtc(a.cfg.RunDir, etcNames[i], text); err != nil {
			return err
		}
	}
	if a.cfg.Userland != nil && !c.UserlandSoon {
		a.cfg.Userland.Offer(c.Userland)
	}
	if a.cfg.Shares != nil {
		a.cfg.Shares.Set(c.Mounts)
	}
	a.mu.Lock()
	a.configVersion = c.Version
	a.mu.Unlock()
	a.staged()
	return nil
}

// stage is what this node still does before it can take tasks: a node that has had
// its shares once stays in, whatever becomes of them.
func (a *Agent) stage() string {
	a.mu.Lock()
	starting, shared, configured := a.starting, a.shared, a.configVersion > 0
	a.mu.Unlock()
	if starting != "" {
		return starting
	}
	if a.cfg.Userland != nil {
		if s := a.cfg.Userland.Stage(); s != "" {
			return s
		}
	}
	if a.cfg.Shares != nil && !shared {
		if s := a.cfg.Shares.Waiting(); s != "" {
			return s
		}
		a.mu.Lock()
		a.shared = configured
		a.mu.Unlock()
	}
	if a.cfg.Services != nil {
		return a.cfg.Services.Stage()
	}
	return ""
}

// writeEtc keeps a file for tasks that start from now on; an empty text removes it. Those
// that run keep what they have.
func writeEtc(runDir, name, text string) error {
	dir := filepath.Join(runDir, "etc")
	file := filepath.Join(dir, name)
	if text == "" {
		if err := os.Remove(file); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("removing %s of the tasks: %w", name, err)
		}
		return nil
	}
	if old, err := os.ReadFile(file); err == nil && string(old) == text {
		return nil
	}
	err := os.MkdirAll(dir, 0o711)
	if err == nil {
		err = os.WriteFile(file+".new", []byte(text), 0o644)
	}
	if err == nil {
		err = os.Chmod(file+".new", 0o644) // whatever the umask
	}
	if err == nil {
		err = os.Rename(file+".new", file)
	}
	if err != nil {
		return fmt.Errorf("writing %s of the tasks: %w", name, err)
	}
	return nil
}

// etcFiles are the files that writeEtc keeps.
func etcFiles(runDir string) []task.File {
	var files []task.File
	for _, name := range etcNames {
		file := filepath.Join(runDir, "etc", name)
		if _, err := os.Stat(file); err == nil {
			files = append(files, task.File{From: file, To: "/etc/" + name})
		}
	}
	return files
}
