// Package wheel calls those whose time is up, coarsely.
//
// A proxy sets a time-out for each request and hardly ever needs one. A deadline
// of the runtime for each costs more than the rest of the request; here setting
// one that is further away than the last is a comparison.
package wheel
