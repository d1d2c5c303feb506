package boot

import (
	"log/slog"
	"strings"
	"testing"
)

func TestMediumText(t *testing.T) {
	for name, c := range map[string]struct {
		cmdline, site string
		want          string // how it begins
	}{
		"stick":        {"muster.medium=usb", `{"label":"room 12"}`, `USB stick "room 12"; take it out`},
		"CD":           {"muster.medium=iso", "", "CD or USB stick; take it out"},
		"UKI":          {"muster.medium=uki", `{"label":"x"}`, `UEFI program, over the network or from a stick "x"; take it out`},
		"network":      {"muster.medium=pxe", `{"label":"x"}`, ""},
		"unknown":      {"quiet", "", ""},
		"site says so": {"quiet", `{"medium":"usb"}`, "USB stick; take it out"},
	} {
		p := ParseCmdline(c.cmdline)
		if c.site != "" {
			p.applySite([]byte(c.site))
		}
		if got := MediumText(p); !strings.HasPrefix(got, c.want) || c.want == "" && got != "" {
			t.Errorf("%s: MediumText() = %q, want %q", name, got, c.want)
		}
	}
}

func TestProbe(t *testing.T) {
	for line, want := range map[string]string{"muster.probe=network": "network", "muster.probe=all": "", "quiet": ""} {
		if p := ParseCmdline(line); p.Probe != want || len(p.Problems) > 0 {
			t.Errorf("%s: Probe = %q, problems %q; want %q", line, p.Probe, p.Problems, want)
		}
	}
	if p := ParseCmdline("muster.probe=some"); len(p.Problems) != 1 || !strings.Contains(p.Problems[0], "it is not network or all") {
		t.Errorf("problems are %q", p.Problems)
	}
	plug := newPlugger(nil, slog.New(slog.DiscardHandler))
	plug.networkOnly = true
	for _, alias := range []string{"usb:v1", "pci:v00008086d00001533sv0sd0bc02sc00i00", "acpi:PNP0C0C:", "virtio:d00000001v00001AF4", "virtio:d00000002v00001AF4"} {
		plug.add(alias)
	}
	if got := strings.Join(plug.queue, " "); got != "pci:v00008086d00001533sv0sd0bc02sc00i00 virtio:d00000001v00001AF4" {
		t.Errorf("queue is %s, want the network devices alone", got)
	}
}
