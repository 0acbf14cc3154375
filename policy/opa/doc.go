// Package opa decides about Jobs with Open Policy Agent, run as a library in this process.
//
// It owns the way from an operator's file to a decision: it checks the policy data strictly (a misspelt limit would be no limit),
// compiles the bundle once, evaluates it for each Job within a bounded time, and takes nothing for an answer that is not a whole, well-formed
// decision. Whatever goes wrong is an error and never an admission.
//
// Rules have no way out and no memory: the built-in functions that reach the network, the clock, the process's environment or a random source
// do not exist for them, so the same input under the same digest gives the same decision on every replica and in every later year.
package opa
