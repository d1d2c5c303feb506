package main

import (
	"context"
	"errors"
	"net/http"

	"golang.org/x/sync/errgroup"

	"muster/pxe"
)

// runFiles is the process that sends kernels, initramfs and other bulk files.
func runFiles(ctx context.Context, env childEnv) error {
	l, err := env.listener("files")
	if err != nil {
		return err
	}
	blobs, err := openBlobs(env.opts)
	if err != nil {
		return err
	}
	defer blobs.Close()
	link := newCoreLink(env.opts.internalSocket(), env.log)
	srv := pxe.NewHTTPServer(pxe.FilesHandler(pxe.FilesConfig{Blobs: blobs, Observer: link, Log: env.log}))
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return link.run(ctx) })
	g.Go(func() error {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		return srv.Close() // transfers end here; firmware and iPXE ask again
	})
	env.ready()
	return g.Wait()
}
