package main

import (
	"context"
	"io"

	"muster/api"
	"muster/nodeagent"
	"muster/nodeagent/boot"
	"muster/nodeagent/userland"
)

// cameByKexec takes over what the image left that ran on this machine before: above all its key.
func (m *machine) cameByKexec(cfg *nodeagent.Config) {
	st, err := boot.TakeKexec("/", cfg.RunDir)
	if err != nil {
		m.log.Error("what the image before left is not used", "err", err)
		m.params.Problems = append(m.params.Problems, err.Error())
	}
	if st == nil {
		return
	}
	if m.params.Label == "" {
		m.params.Label = st.Label
	}
	cfg.Kexeced = &api.KexecReport{ImageID: st.ImageID, From: st.From}
	if runs := boot.ReadSoftware("/", m.params).ImageID; runs != st.ImageID {
		cfg.Kexeced.Error = "another image than that came up"
	}
}

// startImage is how this machine starts another image.
func (m *machine) startImage(runDir string) func(context.Context, api.BootImage, string, func(string)) error {
	return func(ctx context.Context, b api.BootImage, files string, stage func(string)) error {
		return boot.Kexec(ctx, boot.KexecConfig{
			Boot: b, Params: m.params, RunDir: runDir, Stage: stage,
			Fetch: func(ctx context.Context, ref api.BlobRef, w io.Writer, got func(int64)) error {
				return userland.FetchBlob(ctx, files, ref, w, got)
			},
		})
	}
}
