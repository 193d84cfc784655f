// Package rules holds the test that keeps the repository in the shape its
// design gives it: who may import whom, how long files and functions are, what
// tests and libraries must not do. It has no code but that test.
//
// The test reads the sources itself instead of asking `go list`: so it sees the
// files of every operating system, and a rule can be tried on a few lines that
// exist only in a string.
package rules
