package boot

import (
	"context"
	"time"

	"muster/api"
	"muster/internal/mdns"
)

// browseFor is how long heads may take to answer.
const browseFor = 3 * time.Second

// HeadsByMDNS asks the machine's links for heads by multicast DNS.
func HeadsByMDNS(ctx context.Context) ([]api.HeadNote, error) {
	found, err := mdns.Browse(ctx, api.ServiceType, browseFor)
	var heads []api.HeadNote
	for _, f := range found {
		n := api.HeadNote{Addr: f.Addr.String(), Pin: f.Value(api.ServicePin)}
		if !api.ValidPin(n.Pin) {
			n.Pin = "" // its key will tell
		}
		heads = append(heads, n)
	}
	return heads, err
}
