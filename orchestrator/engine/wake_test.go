package engine

import (
	"testing"
	"time"
)

// Each story's commands, and each tick that the engine asks for: none may ask for the same again at once.
func TestATickThatDecidesNothingIsNotAskedForAgain(t *testing.T) {
	s := newStory(t)
	s.play("> offer small cpu=1000 price=1000\n> offer other cpu=1000\n> job demo completions=2 parallelism=2\n> admit demo\n> settle L0 count=1 error=no-capacity\n")
	for range 20 {
		wake := s.state.Effects().Wake
		if wake.IsZero() {
			return
		}
		if wake.After(s.now) {
			s.now = wake
		}
		s.submit(Tick{})
		if next := s.state.Effects().Wake; !next.IsZero() && !next.After(s.now) {
			t.Fatalf("at %s a tick is asked for at %s", s.now.Format(time.TimeOnly), next.Format(time.TimeOnly))
		}
	}
}
