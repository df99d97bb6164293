package haul

import (
	"context"
	"math/rand"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/status"
)

const (
	// firstPatience is how long a server that has never answered is waited for: more likely than its restart is a wrong address.
	firstPatience = 10 * time.Second
	// firstBackoff is the wait before the first try after a cut, which doubles with each further one up to maxBackoff.
	firstBackoff = 100 * time.Millisecond
	maxBackoff   = 10 * time.Second
)

// patience is how long a server that is away is waited for, over all calls of a client.
type patience struct {
	bound      time.Duration
	wasReached atomic.Bool
}

// retries are the tries of one call, or of one stream that goes on over many calls.
type retries struct {
	patience *patience
	backoff  time.Duration
	since    time.Time
}

func (p *patience) retries() *retries {
	return &retries{patience: p}
}

// answered says that the server has said something: the next cut is the first one again.
func (r *retries) answered() {
	r.backoff = 0
	r.patience.wasReached.Store(true)
}

// wait waits for the time of the next try; it returns the error where there is none.
func (r *retries) wait(ctx context.Context, err *Error) error {
	if err.Reason != "" {
		r.patience.wasReached.Store(true)
	}
	now := time.Now()
	if r.backoff == 0 {
		r.backoff, r.since = firstBackoff, now
	}
	bound := r.patience.bound
	if !r.patience.wasReached.Load() && bound > firstPatience {
		bound = firstPatience
	}
	if ctx.Err() != nil || !err.IsCut() || now.Sub(r.since) > bound {
		return err
	}
	delay := r.backoff
	if delay < err.RetryDelay {
		delay = err.RetryDelay
	}
	if r.backoff *= 2; r.backoff > maxBackoff {
		r.backoff = maxBackoff
	}
	// Clients that lost one server at once come back one after the other.
	timer := time.NewTimer(time.Duration(float64(delay) * (0.75 + rand.Float64()/2)))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return errorOf(status.FromContextError(ctx.Err()).Err())
	}
}
