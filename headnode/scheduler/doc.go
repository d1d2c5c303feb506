// Package scheduler decides what runs where. Its functions get a snapshot of
// the cluster and answer placements with reasons that a person can read; they
// have no clock, do no input or output, take no locks and change nothing.
package scheduler
