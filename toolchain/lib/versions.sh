# shellcheck shell=bash disable=SC2034  # read by the files that source this one
# Every version the toolchain depends on and that no lock file holds.

NODE_LEAST=20

# The CLI; also in engine/go.mod and package.json.
PULUMI_VERSION=3.250.0

# The plugins as published; the npm packages of the same versions call them.
COMMAND_VERSION=1.2.1
RANDOM_VERSION=4.21.2
VSPHERE_VERSION=4.16.0

# Builds the Go modules, fetched when there is no Go at all. The sums are those
# of the public checksum database for golang.org/toolchain.
GO_LEAST=1.26
GO_VERSION=1.26.8
GO_SUM_amd64=ZOmGe1OnfREDMIdb1Qi4G9JSuDPBLGExZMQ4nis1RXM=
GO_SUM_arm64=sYL/O6MqS68ML0kjsQ36WoYIpJqkw60TxizWUYUKQMc=
