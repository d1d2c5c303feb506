package main

import (
	"log/slog"

	"muster/nodeagent"
)

// logScreen is the screen of an agent on a system that muster did not boot,
// whose consoles are not ours: what a person should know goes to the log.
type logScreen struct{ log *slog.Logger }

// Show implements nodeagent.Screen.
func (l logScreen) Show(s nodeagent.Status) {
	attrs := []any{"state", s.Phase, "head", s.Head, "fingerprint", s.Fingerprint}
	for _, a := range []struct{ key, text string }{
		{"node", s.Name}, {"head_fingerprint", s.HeadFingerprint}, {"message", s.Message}, {"why", s.Reason}, {"stage", s.Stage}, {"problem", s.Notice},
	} {
		if a.text != "" {
			attrs = append(attrs, a.key, a.text)
		}
	}
	l.log.Info("status", attrs...)
}
