package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"
)

// table writes rows in columns. Columns are as wide as their widest cell;
// where all do not fit into the terminal, the last one is cut, or wrapped at [textWidth]. What is no terminal gets
// whole lines: grep would miss what is cut.
type table struct {
	head []string
	rows [][]string
	wrap bool // the last column is text to be read whole
	// whole: every cell is to be read whole, and lines may be longer than textWidth. No
	// column but the last is then made wider than maxColumn for the sake of a few cells.
	whole bool
}

// maxColumn is how far a long cell moves the columns behind it in all rows.
const maxColumn = 40

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) write(w io.Writer) error { return t.writeIn(w, lineWidth(w)) }

// writeIn writes into lines of so many columns.
func (t *table) writeIn(w io.Writer, width int) error {
	for _, row := range t.rows {
		for i := range row {
			row[i] = harmless(row[i])
		}
	}
	widths := make([]int, len(t.head))
	for _, row := range append([][]string{t.head}, t.rows...) {
		for i, c := range row {
			n := utf8.RuneCountInString(c)
			if t.whole {
				n = min(n, maxColumn)
			}
			widths[i] = max(widths[i], n)
		}
	}
	indent := 2 * (len(widths) - 1)
	for _, w := range widths[:len(widths)-1] {
		indent += w
	}
	for _, row := range append([][]string{t.head}, t.rows...) {
		var line strings.Builder
		for i, c := range row[:len(row)-1] {
			line.WriteString(c)
			line.WriteString(strings.Repeat(" ", max(widths[i]-utf8.RuneCountInString(c), 0)+2))
		}
		last := []string{row[len(row)-1]}
		if t.wrap {
			last = wrapText(last[0], max(textWidth-indent, 20))
		}
		for i, part := range last {
			text := line.String() + part
			if i > 0 {
				text = strings.Repeat(" ", indent) + part
			}
			text = strings.TrimRight(text, " ")
			if !t.whole {
				text = cut(text, width)
			}
			if _, err := fmt.Fprintln(w, text); err != nil {
				return err
			}
		}
	}
	return nil
}

// pipedWidth bounds the lines of what is no terminal: a command has up to half a megabyte.
const pipedWidth = 1000

// lineWidth is how long lines of a listing may be.
func lineWidth(w io.Writer) int {
	fd := terminalOf(w)
	if fd < 0 {
		return pipedWidth
	}
	columns, _, err := term.GetSize(fd)
	if err != nil || columns <= 0 {
		return textWidth
	}
	return columns
}

// wrapText breaks s at spaces into lines of at most n runes, where words allow.
func wrapText(s string, n int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(s) {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > n {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}

// cut shortens s to n runes, the last of them an ellipsis.
func cut(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	r := []rune(s)
	return string(r[:n-1]) + "…"
}

// printable quotes a name that would spoil a listing: with newlines, other control
// characters, or bytes that are no UTF-8.
func printable(s string) string {
	if utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return s
	}
	return strconv.Quote(s)
}

// writeJSON writes v as people and programs read it.
func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// ago says how long ago t was, in one unit.
func ago(now, t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return span(now.Sub(t))
}

// span writes a duration in its largest whole unit.
func span(d time.Duration) string {
	switch {
	case d < time.Second:
		return "0s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}

// size writes a number of bytes with a decimal prefix.
func size(n int64) string {
	const units = "kMGTPE"
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	f := float64(n)
	i := -1
	for f >= 1000 && i < len(units)-1 {
		f /= 1000
		i++
	}
	return fmt.Sprintf("%.1f %cB", f, units[i])
}
