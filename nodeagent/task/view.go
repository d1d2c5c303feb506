package task

// View is what tasks see of a node.
type View struct {
	Root string // folder that is their /; empty: the node's root
}
