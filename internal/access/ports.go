package access

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A portSet is sorted ranges that do not overlap. Nil is every port.
type portSet []portRange

type portRange struct{ first, last uint16 }

// parsePorts reads "22,5900,8000-8010" or "*".
func parsePorts(s string) (portSet, error) {
	if s == "*" {
		return nil, nil
	}
	var set portSet
	for part := range strings.SplitSeq(s, ",") {
		low, high, isRange := strings.Cut(part, "-")
		first, err := parsePort(low)
		if err != nil {
			return nil, err
		}
		last := first
		if isRange {
			if last, err = parsePort(high); err != nil {
				return nil, err
			}
		}
		if last < first {
			return nil, fmt.Errorf("the range %s ends before it starts: write %d-%d", part, last, first)
		}
		set = append(set, portRange{first, last})
	}
	slices.SortFunc(set, func(a, b portRange) int { return cmp.Compare(a.first, b.first) })
	merged := set[:1]
	for _, r := range set[1:] {
		if end := &merged[len(merged)-1]; r.first <= end.last {
			end.last = max(end.last, r.last)
		} else {
			merged = append(merged, r)
		}
	}
	return merged, nil
}

// parsePort reads a port that something can listen on: 1 to 65535, in digits.
func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || s[0] == '+' {
		return 0, fmt.Errorf("%q is no port: ports are 1 to 65535", s)
	}
	return uint16(n), nil
}

func (s portSet) contains(port uint16) bool {
	return s == nil || slices.ContainsFunc(s, func(r portRange) bool { return r.first <= port && port <= r.last })
}

func (s portSet) String() string {
	if s == nil {
		return "*"
	}
	parts := make([]string, len(s))
	for i, r := range s {
		parts[i] = strconv.Itoa(int(r.first))
		if r.last != r.first {
			parts[i] += "-" + strconv.Itoa(int(r.last))
		}
	}
	return strings.Join(parts, ",")
}
