// Package language only pins the version of the Node.js language host: the last
// one that is part of Pulumi's sdk module, and so the last that the public module
// proxy serves as a whole. It runs programs of later SDKs. Of what later hosts
// have it lacks resource hooks, stack transforms and the generation of packages.
package language
