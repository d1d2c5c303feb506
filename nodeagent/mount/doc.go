// Package mount gives a node the shares that its head wants there, and tasks a tree that
// has a folder for each.
//
// [Mounter.Set] takes the list; [Mounter.Run] mounts and unmounts until the node is
// as the list says, again and again where that fails, and looks whether servers still answer.
// A share is mounted once, at DIR/ID; a task gets it at its own path (task.View).
// The userland is read-only, so where it lacks a share's folder, tasks see a read-only overlay
// of the userland and a tree of empty folders (tree.go).
package mount
