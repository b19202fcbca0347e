// What a node has beside its agent when it is a machine: a login by ssh, and a journal. A module of its own, so that it is built in seconds.
module keelson.invalid/lab/machine

go 1.26.0

require golang.org/x/crypto v0.47.0

require golang.org/x/sys v0.40.0 // indirect
