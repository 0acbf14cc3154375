// Package english keeps kubectl's packages from loading translations. They would do so while they are initialised, before main, in each
// process of Nightshift, agents too: half of the time that a process takes to begin. And what Nightshift says is English, in all
// locales; kubectl's part of it should not be in another language.
package english

import "k8s.io/kubectl/pkg/util/i18n"

// Packages are initialised in the order of their import paths, as far as their own imports allow (Go specification, "Package
// initialization"): this one comes before those of k8s.io that translate. If it did not, translations would be loaded already and this were an
// error that changes nothing.
var _ = i18n.SetLoadTranslationsFunc(func() error { return nil })
