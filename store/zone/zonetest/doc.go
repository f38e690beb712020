// Package zonetest has the servers that a zone is tested and measured with: real
// ones (Redis, Valkey, memcached) that are started, killed and frozen, and one in
// this process that answers anything.
package zonetest
