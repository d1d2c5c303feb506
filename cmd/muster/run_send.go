package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"muster/api"
	"muster/api/client"
)

// maxSent is how many files a head takes with a job.
const maxSent = 1000

// sentPaths are the files that --send names, folders with all that is in them.
func sentPaths(names []string) ([]api.SentFile, error) {
	var files []api.SentFile
	for _, name := range names {
		path := filepath.Clean(name)
		if name == "" || !filepath.IsLocal(path) {
			return nil, usagef("--send %s: it would not be below the working directory; cd to its folder and name it from there", name)
		}
		if st, err := os.Stat(path); err != nil || !st.IsDir() {
			files = append(files, api.SentFile{Path: api.EncodeText(path)}) // sendFile says what is wrong with it
			continue
		}
		before := len(files)
		err := filepath.WalkDir(path+"/", func(at string, e fs.DirEntry, err error) error {
			if len(files) > maxSent {
				return fmt.Errorf("more than %d files; send an archive of them", maxSent)
			}
			if err == nil && !e.IsDir() {
				files = append(files, api.SentFile{Path: api.EncodeText(filepath.Clean(at))})
			}
			return err
		})
		if err != nil {
			return nil, usagef("--send %s: %w", name, err)
		}
		if len(files) == before {
			return nil, usagef("--send %s: the folder has no files", name)
		}
	}
	return files, nil
}

// sendFiles uploads the files of a job.
func sendFiles(ctx context.Context, c *client.Client, files []api.SentFile) error {
	for i := range files {
		if err := sendFile(ctx, c, &files[i]); err != nil {
			return err
		}
	}
	return nil
}

// sendFile uploads a file unless the head has its content, and fills in what the job must know
// of it.
func sendFile(ctx context.Context, c *client.Client, file *api.SentFile) error {
	name := api.DecodeText(file.Path)
	f, err := os.Open(name)
	if err != nil {
		return usagef("--send %s: %w", name, cause(err))
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return fmt.Errorf("sending %s: %w", name, cause(err))
	case info.IsDir():
		return usagef("--send %s: it is a link to a folder; send that folder by its own name", name)
	case !info.Mode().IsRegular():
		return usagef("--send %s: it is no regular file", name)
	}
	h := sha256.New()
	if file.Size, err = io.Copy(h, readerUntil{ctx, f}); err != nil {
		return fmt.Errorf("sending %s: %w", name, cause(err))
	}
	file.SHA256 = hex.EncodeToString(h.Sum(nil))
	file.Mode = uint32(info.Mode().Perm())
	has, err := c.HasBlob(ctx, file.SHA256)
	if err != nil || has {
		return err
	}
	err = c.PutBlob(ctx, file.SHA256, file.Size, func() (io.ReadCloser, error) { return os.Open(name) })
	if err != nil {
		return fmt.Errorf("sending %s: %w", name, err)
	}
	return nil
}
