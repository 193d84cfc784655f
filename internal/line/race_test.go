//go:build race

package line

const raceEnabled = true // sync.Pool then drops at random, so blocks are allocated
