package nodeagent

import (
	"context"
	"sync"

	"muster/api"
)

// starting is a start of another image that the head has asked for. It belongs to a session: when that ends
// it is given up, since the head may give this node tasks in the next one.
type starting struct {
	ended  chan struct{} // gets a token when it has failed
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// begin starts another image, unless that is under way.
func (x *starting) begin(ctx context.Context, a *Agent, r api.JoinReply) {
	if x.cancel != nil {
		return
	}
	ctx, x.cancel = context.WithCancel(ctx)
	what := "kexec: image " + r.Boot.Name
	a.setStarting(what, nil)
	x.done.Go(func() {
		err := a.startImage(ctx, *r.Boot, r.Files, func(text string) { a.setStarting(what+" "+text, nil) })
		if err == nil {
			a.log.Info("another image is started", "image", r.Boot.Name, "id", r.Boot.ImageID)
			return // the machine ends; until then nothing else is begun
		}
		if ctx.Err() == nil {
			a.log.Warn("another image was not started", "image", r.Boot.Name, "id", r.Boot.ImageID, "error", err)
		}
		a.setStarting("", &api.KexecReport{ImageID: r.Boot.ImageID, From: a.cfg.Facts().Software.ImageID, Error: err.Error()})
		select {
		case x.ended <- struct{}{}:
		default:
		}
	})
}

// stop gives up what begin began.
func (x *starting) stop() {
	if x.cancel != nil {
		x.cancel()
	}
	x.done.Wait()
}

func (a *Agent) startImage(ctx context.Context, b api.BootImage, files string, stage func(string)) error {
	if a.cfg.StartImage == nil {
		return &api.Error{Code: api.CodeForbidden, Msg: "this agent may not start another image: it does not run as the machine's own system"}
	}
	if n := a.runningTasks(); n > 0 {
		return &api.Error{Code: api.CodeConflict, Msg: "tasks run here"}
	}
	return a.cfg.StartImage(ctx, b, files, stage)
}

func (a *Agent) runningTasks() int {
	n := 0
	for _, t := range a.tasks.Statuses() {
		if t.State == api.JobRunning {
			n++
		}
	}
	return n
}

// setStarting tells how far a start of another image is: "" and a report when it has failed.
func (a *Agent) setStarting(stage string, report *api.KexecReport) {
	a.mu.Lock()
	a.starting = stage
	if report != nil {
		a.kexeced = report
	}
	a.mu.Unlock()
	now := a.stage()
	a.show(func(s *Status) {
		s.Stage = now
		if report != nil {
			s.Notice = "the image that the head assigns was not started: " + report.Error
		}
	})
	a.tellHead()
}

// kexecReport is what the head is told of starts of other images.
func (a *Agent) kexecReport() *api.KexecReport {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.kexeced
}
