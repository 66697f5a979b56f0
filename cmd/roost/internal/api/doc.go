// Package api is the HTTP API of a member: jobs in, their outcomes out (also live, as server-sent
// events), the nodes connected, and the member's own state, health and metrics.
//
// The OpenAPI document at /openapi.json is generated from the types of this package; the tests check
// every request and response against it. Errors are problem details (RFC 9457).
//
// What the API shows comes from a [Backend], which the member implements over its actors. Everything
// here may be called from any goroutine.
package api
