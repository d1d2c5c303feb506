package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"muster/builder"
	"muster/images"
)

func newImageDiffCommand(at *headFlag) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "diff A B",
		Short: "List what differs between two images",
		Long: `List what differs between two images: packages, kernel modules, kernel
parameters, commands and files. An image is the folder of a build, or the
name or ID of one that is published; of those the head tells the manifest, so
that single files are compared between folders only.`,
		Example: "  muster image diff compute compute.new\n  muster image diff compute ./compute --json",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var both [2]builder.Contents
			for i, ref := range args {
				var err error
				if both[i], err = readImage(cmd.Context(), at, ref); err != nil {
					return inputIsUsage(err)
				}
			}
			d := builder.DiffImages(both[0], both[1])
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), d)
			}
			return writeImageDiff(cmd.OutOrStdout(), d)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return c
}

// readImage reads the image in a folder or, where the folder has none, the manifest of
// a published one.
func readImage(ctx context.Context, at *headFlag, ref string) (builder.Contents, error) {
	if builder.IsImage(ref) {
		return builder.ReadContents(ref)
	}
	call, err := at.connect()
	if err != nil {
		return builder.Contents{}, fmt.Errorf("%s is no folder with an image, and no head can be asked for a published one: %w", ref, err)
	}
	text, err := call.client.ImageManifest(ctx, ref)
	if err != nil {
		return builder.Contents{}, fmt.Errorf("%s is no folder with an image: %w", ref, err)
	}
	m, err := images.ParseManifest("of image "+ref, text)
	return builder.Contents{Manifest: m}, err
}

func writeImageDiff(w io.Writer, d *builder.ImageDiff) error {
	if d.Empty() {
		_, err := fmt.Fprintln(w, "the images do not differ")
		return err
	}
	t := table{head: []string{"WHAT", "NAME", "OLD", "NEW"}, whole: true}
	for _, part := range []struct {
		what string
		all  []builder.Change
	}{
		{"image", d.Image},
		{"parameter", d.Parameters},
		{"package", d.Packages},
		{"module", d.Modules},
		{"command", d.Commands},
		{"artifact", d.Artifacts},
		{"file", d.Files},
		{"userland", d.Userland},
	} {
		for _, c := range part.all {
			t.add(part.what, printable(c.Name), printable(orDash(c.Old)), printable(orDash(c.New)))
		}
	}
	if err := t.write(w); err != nil {
		return err
	}
	if d.Files == nil {
		_, err := fmt.Fprintln(w, "single files were not compared: of a published image only the manifest is known here")
		return err
	}
	return nil
}
