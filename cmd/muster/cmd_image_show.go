package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"muster/api"
	"muster/api/client"
	"muster/images"
)

func newImageShowCommand(at *headFlag) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "show IMAGE",
		Short:   "Show a published image, and where nodes have its userland",
		Long:    "Show a published image, by name or ID: which nodes run it, where each has the\nuserland, and how much of its memory that takes.",
		Example: "  muster image show compute",
		Args:    cobra.ExactArgs(1),
		RunE: at.run(func(cmd *cobra.Command, args []string, call *caller) error {
			img, err := findImage(cmd.Context(), call.client, args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), img)
			}
			nodes, err := call.client.Nodes(cmd.Context())
			if err != nil {
				return err
			}
			return writeImage(cmd.OutOrStdout(), img, nodes.Items)
		}),
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return c
}

// findImage finds what the head takes a name or ID for.
func findImage(ctx context.Context, c *client.Client, ref string) (api.Image, error) {
	text, err := c.ImageManifest(ctx, ref)
	if err != nil {
		return api.Image{}, err
	}
	m, err := images.ParseManifest(ref, text)
	if err != nil {
		return api.Image{}, err
	}
	list, err := c.Images(ctx)
	if err != nil {
		return api.Image{}, err
	}
	i := slices.IndexFunc(list.Items, func(i api.Image) bool { return i.ID == m.ID })
	if i < 0 {
		return api.Image{}, fmt.Errorf("image %s was removed meanwhile", ref)
	}
	return list.Items[i], nil
}

func writeImage(w io.Writer, i api.Image, nodes []api.Node) error {
	rows := [][2]string{
		{"name", i.Name},
		{"id", i.ID},
		{"kernel", i.Kernel + " " + i.Arch},
		{"size", size(i.Bytes)},
		{"published", i.Published.Local().Format("2006-01-02 15:04")},
		{"kexec", string(i.Kexec)},
	}
	if i.Default {
		rows[0][1] += ", the default"
	}
	rows = append(rows, userlandRows(i.Userland)...)
	for _, n := range nodes {
		if n.Admin != "" && n.Software.ImageID == i.ID {
			rows = append(rows, [2]string{"node " + n.Name, userlandPlace(n)})
		}
	}
	if len(i.Assigned) > 0 {
		rows = append(rows, [2]string{"assigned", api.FormatHostList(i.Assigned)})
	}
	for _, r := range rows {
		if _, err := fmt.Fprintf(w, "%-12s %s\n", r[0], r[1]); err != nil {
			return err
		}
	}
	return nil
}

// userlandRows say what an image's userland is, and where nodes are to have it.
func userlandRows(u *api.ImageUserland) [][2]string {
	if u == nil {
		return [][2]string{{"userland", "none"}}
	}
	where := map[api.UserlandIn]string{
		api.UserlandMemory: fmt.Sprintf("in memory, of nodes from %d MiB", u.MemoryMiB),
		api.UserlandShare:  "read from a share",
		api.UserlandAuto:   fmt.Sprintf("in memory of nodes from %d MiB, read from a share where it is more than a quarter of that", u.MemoryMiB),
	}[u.In]
	rows := [][2]string{{"userland", fmt.Sprintf("%s, %s, %s", short(u.SHA256), size(u.Bytes), where)}}
	switch {
	case u.Share != "":
		rows = append(rows, [2]string{"share", u.Share}, [2]string{"file", copyText(*u)})
	case u.In != api.UserlandMemory:
		rows = append(rows, [2]string{"share", "none set; with: muster image set IMAGE --userland-share HOST:/FOLDER"})
	}
	return rows
}

// copyText says what has to be in the folder that nodes read from.
func copyText(u api.ImageUserland) string {
	if u.File == "" {
		return "it cannot be read from a share; build the image again"
	}
	return fmt.Sprintf("%s (copy: cp %s %s)", u.File, u.Blob, u.File)
}

// writeImageSet says what was set.
func writeImageSet(w io.Writer, img api.Image, s api.ImageSettings) error {
	var b strings.Builder
	if s.Kexec != "" {
		fmt.Fprintf(&b, "%s (%s): kexec %s\n", img.Name, short(img.ID), img.Kexec)
	}
	if u := img.Userland; s.UserlandShare != nil && u != nil {
		if u.Share == "" {
			fmt.Fprintf(&b, "%s: no share has its userland\n", img.Name)
		} else {
			fmt.Fprintf(&b, "%s: nodes read its userland from %s (%s)\nif the file is not there yet: cp %s FOLDER/%s\n", img.Name, u.Share, u.In, u.Blob, u.File)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
