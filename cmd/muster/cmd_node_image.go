package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"muster/api"
)

func newNodeImageCommand(at *headFlag) *cobra.Command {
	var byDefault, asJSON bool
	c := &cobra.Command{
		Use:   "image NODE... IMAGE | NODE... --default",
		Short: "Choose what nodes boot the next time",
		Long: `Give nodes, or machines that were made known with muster node add, an image of
their own, or the default again. They boot it the next time they start.
NODE is a name, a host list as n[1-4,7] or n1,n3, or a MAC. IMAGE is the name
of an image, which the nodes follow to what is published under it later, or an
ID or the beginning of one, which stays that image. All nodes are changed, or
none.`,
		Example: `  muster node image n7 gpu
  muster node image 'n[1-4,7]' 3f9a2c11      # this very image
  muster node image n7 --default`,
		RunE: at.run(func(cmd *cobra.Command, args []string, call *caller) error {
			var req api.AssignImageRequest
			switch {
			case byDefault && len(args) == 0:
				return usagef("name the nodes, as in: muster node image n7 --default")
			case !byDefault && len(args) < 2:
				return usagef("name nodes and an image, as in: muster node image n7 compute; or --default for that of all others")
			case !byDefault:
				req.Image, args = args[len(args)-1], args[:len(args)-1]
				if req.Image == "" {
					return usagef("the image has no name; --default is that of all others")
				}
			}
			var err error
			if req.Nodes, err = nodesNamed(cmd, call, args); err != nil {
				return err
			}
			nodes, err := call.client.AssignImage(cmd.Context(), req)
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), api.List[api.Node]{Items: nodes})
			}
			return writeAssigned(cmd.OutOrStdout(), nodes)
		}),
		ValidArgsFunction: at.completeNodes,
	}
	c.Flags().BoolVar(&byDefault, "default", false, "the image of all nodes that have none of their own")
	c.Flags().BoolVar(&asJSON, "json", false, "print the nodes as JSON")
	return c
}

// writeAssigned says what nodes boot next.
func writeAssigned(w io.Writer, nodes []api.Node) error {
	for _, n := range nodes {
		image := n.Image.Assigned
		if image == "" {
			image = "the default image"
		} else {
			image = short(image)
		}
		text := fmt.Sprintf("%s boots %s", orWord(n.Name, n.MAC), image)
		switch {
		case n.Image.Next != "" && n.Admin != "":
			text += fmt.Sprintf(" (%s %s) the next time it starts: muster node reboot %s", n.Image.Next, short(n.Image.NextID), n.Name)
		case n.Image.Next != "":
			text += fmt.Sprintf(" (%s %s) when it comes", n.Image.Next, short(n.Image.NextID))
		case n.Image.Name != "" && !n.Image.Missing:
			text += ", as it does now"
		}
		if _, err := fmt.Fprintln(w, text); err != nil {
			return err
		}
	}
	return nil
}

// imageText is what a node runs and, where that differs, what it boots next.
func imageText(n api.Node) string {
	text := orDash(n.Image.Name)
	if n.Image.Unknown {
		text = "unknown (" + short(n.Software.ImageID) + ")"
	}
	switch {
	case n.Image.Missing:
		text += ", next " + short(n.Image.Assigned) + ", which is not published"
	case n.Image.Next != "" && n.Image.Next == n.Image.Name:
		text += ", next " + n.Image.Next + " (" + short(n.Image.NextID) + ")"
	case n.Image.Next != "":
		text += ", next " + n.Image.Next
	}
	return text
}

// imageRow is what node show says of a node's image.
func imageRow(n api.Node) string {
	if n.Software.ImageID == "" && n.Image == (api.NodeImage{}) {
		return ""
	}
	text := imageText(n)
	if n.Image.Name != "" {
		text = n.Image.Name + " (" + short(n.Software.ImageID) + ")" + text[len(n.Image.Name):]
	}
	if n.Image.Assigned != "" {
		text += "; its own is " + short(n.Image.Assigned)
	}
	return text
}

// userlandRow is what node show says of what tasks see on a node.
func userlandRow(n api.Node) string {
	sw := n.Software
	switch {
	case sw.Userland != "" && (sw.UserlandWanted == "" || sw.Userland == sw.UserlandWanted):
		if sw.UserlandIn == "" { // an agent of before
			return short(sw.Userland)
		}
		return short(sw.Userland) + ", " + userlandPlace(n)
	case sw.UserlandWanted != "":
		return short(sw.UserlandWanted) + ", which it does not hold yet"
	case n.Admin != "" && sw.ImageID != "":
		return fmt.Sprintf("none: only tasks that name it (--on %s) run there", n.Name)
	}
	return ""
}

// userlandPlace says where a node has its userland, and what of its memory that takes.
func userlandPlace(n api.Node) string {
	sw := n.Software
	switch {
	case sw.UserlandIn == api.UserlandShare && sw.UserlandStalled != "":
		return sw.UserlandStalled
	case sw.UserlandIn == api.UserlandShare:
		return "read from " + sw.UserlandFrom + ", takes no memory for good"
	case sw.UserlandIn == api.UserlandMemory:
		return fmt.Sprintf("in memory, %s", size(sw.UserlandBytes))
	case sw.UserlandWanted != "" && n.Stage != "":
		return n.Stage
	}
	return "no userland"
}
