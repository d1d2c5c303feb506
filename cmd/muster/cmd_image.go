package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"muster/api"
	"muster/api/client"
	"muster/images"
)

func newImageCommand(at *headFlag) *cobra.Command {
	c := &cobra.Command{
		Use:     "image",
		Short:   "List, publish, compare and remove images that machines boot",
		GroupID: "admin",
		Example: "  muster build compute\n  muster image publish compute --default",
	}
	c.AddCommand(newImageListCommand(at), newImagePublishCommand(at), newImageDefaultCommand(at), newImageSetCommand(at), newImageShowCommand(at), newImageRemoveCommand(at), newImageDiffCommand(at))
	return c
}

func newImageListCommand(at *headFlag) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List published images, and which nodes run them",
		Long: `List published images, the latest first. NODES run the image now; ASSIGNED are
those whose own image it is (muster node image). A node boots what is chosen
for it the next time it starts; until then it keeps what it runs.`,
		Example: "  muster image list",
		Args:    cobra.NoArgs,
		RunE: at.run(func(cmd *cobra.Command, _ []string, call *caller) error {
			list, err := call.client.Images(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), list)
			}
			if len(list.Items) == 0 {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), "no images; publish one with: muster image publish DIR")
				return err
			}
			t := table{head: []string{"NAME", "ID", "DEFAULT", "NODES", "ASSIGNED", "KEXEC", "SIZE", "KERNEL"}, whole: true}
			for _, i := range list.Items {
				def := ""
				if i.Default {
					def = "yes"
				}
				t.add(i.Name, short(i.ID), def, orDash(api.FormatHostList(i.Nodes)), orDash(api.FormatHostList(i.Assigned)), string(i.Kexec), size(i.Bytes), i.Kernel)
			}
			return t.write(cmd.OutOrStdout())
		}),
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return c
}

func newImagePublishCommand(at *headFlag) *cobra.Command {
	var makeDefault bool
	c := &cobra.Command{
		Use:     "publish DIR",
		Short:   "Give an image that was built to the head, for machines to boot",
		Example: "  muster image publish compute --default",
		Args:    cobra.ExactArgs(1),
		RunE: at.run(func(cmd *cobra.Command, args []string, call *caller) error {
			var def *bool
			if cmd.Flags().Changed("default") {
				def = &makeDefault
			}
			img, err := publish(cmd.Context(), call.client, args[0], def)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is published as %s\n", img.Name, short(img.ID))
			return err
		}),
	}
	c.ValidArgsFunction = folders
	c.Flags().BoolVar(&makeDefault, "default", false, "machines boot it unless they have an image of their own (default: if it is the first)")
	return c
}

func newImageDefaultCommand(at *headFlag) *cobra.Command {
	return &cobra.Command{
		Use:     "default IMAGE",
		Short:   "Choose the image of machines that have none of their own",
		Long:    "Choose the image, by name or ID, of machines that have none of their own.\nNodes boot it the next time they start.",
		Example: "  muster image default compute",
		Args:    cobra.ExactArgs(1),
		RunE: at.run(func(cmd *cobra.Command, args []string, call *caller) error {
			img, err := call.client.SetDefaultImage(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s (%s) is the default\n", img.Name, short(img.ID))
			return err
		}),
	}
}

func newImageSetCommand(at *headFlag) *cobra.Command {
	var kexec, share string
	c := &cobra.Command{
		Use:   "set IMAGE [--kexec=WHEN] [--userland-share=FOLDER]",
		Short: "Choose who starts an image by kexec, and where its userland is",
		Long: `Choose which machines start an image, by name or ID, when they join with another
one although the head has this one for them: they load its kernel and start it
(kexec), before they take a job. With media, which an image has at first, those
do that were booted from a CD or a USB stick.

Name a folder that nodes can read the image's userland from in place of holding
it in memory: of an NFS server, HOST:/FOLDER, or of a share of the cluster.
Nodes check every block that they read, so the server needs no trust. Which
nodes do so the definition says (userland: memory, share or auto). It is kept
by the name of the image, for what is published under it later as well.`,
		Example: "  muster image set compute --kexec=never\n  muster image set compute --userland-share=nas1:/tank/images",
		Args:    cobra.ExactArgs(1),
		RunE: at.run(func(cmd *cobra.Command, args []string, call *caller) error {
			s := api.ImageSettings{Kexec: api.KexecPolicy(kexec)}
			if cmd.Flags().Changed("userland-share") {
				if share == "" {
					return usagef("--userland-share is empty; name a folder, as nas1:/tank/images, or none")
				}
				if share == "none" {
					share = ""
				}
				s.UserlandShare = &share
			}
			if kexec == "" && s.UserlandShare == nil {
				return usagef("nothing is set; say --kexec=media, --kexec=always or --kexec=never, or --userland-share=FOLDER")
			}
			img, err := call.client.SetImage(cmd.Context(), args[0], s)
			if err != nil {
				return err
			}
			return writeImageSet(cmd.OutOrStdout(), img, s)
		}),
	}
	c.Flags().StringVar(&kexec, "kexec", "", "which `machines`: media, always or never")
	c.Flags().StringVar(&share, "userland-share", "", "`folder` that nodes read the userland from: HOST:/FOLDER, a folder of a share, or none")
	_ = c.RegisterFlagCompletionFunc("kexec", words("media", "always", "never"))
	return c
}

func newImageRemoveCommand(at *headFlag) *cobra.Command {
	return &cobra.Command{
		Use:     "remove IMAGE…",
		Aliases: []string{"rm"},
		Short:   "Remove published images that no node runs",
		Long:    "Remove published images, by name or ID. One that a node runs or is to boot\n(muster node image), and the default, are refused.",
		Example: "  muster image remove 3f9a2c11",
		Args:    cobra.MinimumNArgs(1),
		RunE: at.run(func(cmd *cobra.Command, args []string, call *caller) error {
			for _, ref := range args {
				if err := call.client.RemoveImage(cmd.Context(), ref); err != nil {
					return err
				}
				if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s is removed\n", ref); err != nil {
					return err
				}
			}
			return nil
		}),
	}
}

// publish uploads what the head does not have of the image in dir and
// publishes it.
func publish(ctx context.Context, c *client.Client, dir string, makeDefault *bool) (api.Image, error) {
	raw, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	if err != nil {
		return api.Image{}, usagef("%s is no image: reading its manifest.json: %w; build one with: muster build compute", dir, cause(err))
	}
	m, err := images.ParseManifest(filepath.Join(dir, "manifest.json"), raw)
	if err != nil {
		return api.Image{}, usagef("reading the manifest: %w", err)
	}
	// Machines fetch what they boot over the network; media stay where they are.
	if n := m.Netboot(); len(n.Artifacts) < len(m.Artifacts) {
		m = n
		if raw, err = json.Marshal(m); err != nil {
			return api.Image{}, err
		}
	}
	for _, a := range m.Artifacts {
		has, err := c.HasImageBlob(ctx, a.SHA256)
		if err != nil {
			return api.Image{}, err
		}
		if has {
			continue
		}
		err = c.PutImageBlob(ctx, a.SHA256, a.Size, func() (io.ReadCloser, error) {
			return os.Open(filepath.Join(dir, filepath.FromSlash(a.Name)))
		})
		if err != nil {
			return api.Image{}, fmt.Errorf("publishing %s of %s: %w", a.Name, dir, err)
		}
	}
	return c.Publish(ctx, api.PublishRequest{Manifest: raw, Default: makeDefault})
}
