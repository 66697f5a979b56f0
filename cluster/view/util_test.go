package view

import (
	"slices"
	"strconv"
)

func itoa(n uint64) string { return strconv.FormatUint(n, 10) }

func sorted(s []string) []string {
	s = slices.Clone(s)
	slices.Sort(s)
	return s
}
