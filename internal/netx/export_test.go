package netx

// ViaTLS is Via with a TLS configuration for the way to the proxy.
var ViaTLS = via
