//go:build race

package relay

const raceEnabled = true // sync.Pool then drops at random, so blocks are allocated
