package main

import (
	"context"

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
	handler := pxe.FilesHandler(pxe.FilesConfig{Blobs: blobs, Observer: link, Log: env.log})
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return link.run(ctx) })
	g.Go(func() error { return pxe.ServeHTTP(ctx, l, handler) })
	env.ready()
	return g.Wait()
}
