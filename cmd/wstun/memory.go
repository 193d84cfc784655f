package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
)

// defaultMemory is a quarter of what this machine, or this container, has, and
// at most 1 GiB.
func defaultMemory() int64 {
	const most, unknown = 1 << 30, 256 << 20
	have := int64(math.MaxInt64)
	if info, err := os.ReadFile("/proc/meminfo"); err == nil {
		have = min(have, memTotal(string(info)))
	}
	for _, limit := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		if text, err := os.ReadFile(limit); err == nil {
			if n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && n > 0 {
				have = min(have, n)
			}
		}
	}
	if have == math.MaxInt64 {
		return unknown
	}
	return min(have/4, most)
}

// memTotal reads the first line of /proc/meminfo.
func memTotal(info string) int64 {
	var kib int64
	if _, err := fmt.Sscanf(info, "MemTotal: %d kB", &kib); err != nil || kib <= 0 {
		return math.MaxInt64
	}
	return kib << 10
}

// parseSize reads 512M, 2G, 65536K or a number of bytes.
func parseSize(s string) (int64, error) {
	errSize := errors.New("not a size; write 256M or 2G")
	number, unit := s, int64(1)
	for i, suffix := range []string{"K", "M", "G"} {
		if n, ok := strings.CutSuffix(strings.ToUpper(s), suffix); ok {
			number, unit = n, 1<<(10*(i+1))
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/unit {
		return 0, errSize
	}
	if n *= unit; n < 16<<20 {
		return 0, errors.New("too little to work with; write 16M or more")
	}
	return n, nil
}
