package haul

import (
	"context"
	"errors"
	"io"

	"haul/client/haulv1"
)

// Watch follows a job: for watch.Next() { watch.Event() }, then watch.Err(). It is ended by its context or by Close.
type Watch struct {
	client  *Client
	ctx     context.Context
	cancel  context.CancelFunc
	request *haulv1.WatchJobRequest
	all     bool
	retries *retries
	stream  haulv1.JobService_WatchJobClient
	event   *haulv1.WatchJobResponse
	err     error
}

// Watch gives each durable event of a job after the sequence once and in order, to the end of the job.
func (c *Client) Watch(ctx context.Context, jobID string, after uint64) *Watch {
	ctx, cancel := context.WithCancel(ctx)
	return &Watch{
		client: c, ctx: ctx, cancel: cancel, retries: c.patience.retries(),
		request: &haulv1.WatchJobRequest{JobId: jobID, AfterSequence: &after},
	}
}

// IncludeBody brings the bodies of fetches. It returns the watch, and is called before Next.
func (w *Watch) IncludeBody() *Watch {
	w.request.IncludeBody = true
	return w
}

// Progress brings what comes between, too: snapshots (one at each connection) and progress. It returns the watch, and is
// called before Next.
func (w *Watch) Progress() *Watch {
	w.all = true
	return w
}

// Next waits for the next event. It returns false when the job has ended or Err is set.
func (w *Watch) Next() bool {
	for {
		message, err := w.receive()
		switch {
		case err == nil:
			w.retries.answered()
			if w.wants(message) {
				w.event = message
				return true
			}
		case errors.Is(err, io.EOF):
			w.cancel()
			return false
		default:
			w.stream = nil
			if w.err = w.retries.wait(w.ctx, errorOf(err)); w.err != nil {
				w.cancel()
				return false
			}
		}
	}
}

// Event is what Next has found.
func (w *Watch) Event() *haulv1.WatchJobResponse {
	return w.event
}

// Err is what ended the watch before the job ended.
func (w *Watch) Err() error {
	return w.err
}

// Close ends the watch.
func (w *Watch) Close() {
	w.cancel()
}

func (w *Watch) receive() (*haulv1.WatchJobResponse, error) {
	if w.stream == nil {
		stream, err := w.client.Jobs.WatchJob(w.ctx, w.request)
		if err != nil {
			return nil, err
		}
		w.stream = stream
	}
	return w.stream.Recv()
}

func (w *Watch) wants(message *haulv1.WatchJobResponse) bool {
	switch message.Event.(type) {
	case *haulv1.WatchJobResponse_TaskEnded, *haulv1.WatchJobResponse_JobChanged, *haulv1.WatchJobResponse_JobEnded:
		if message.Sequence <= w.request.GetAfterSequence() {
			return false
		}
		after := message.Sequence
		w.request.AfterSequence = &after
		return true
	case *haulv1.WatchJobResponse_Snapshot, *haulv1.WatchJobResponse_Progress:
		return w.all
	}
	return false
}

// Content names the content of a task, or a part of it.
type Content struct {
	JobID string
	// Index names the task, unless Key does.
	Index uint32
	Key   string
	// Offset and Length are of the part; a Length of 0 is all that follows.
	Offset, Length uint64
}

// Read reads the content of a task. Whoever does not read it to its end or to an error has to Close it.
func (c *Client) Read(ctx context.Context, content Content) io.ReadCloser {
	ctx, cancel := context.WithCancel(ctx)
	request := &haulv1.ReadContentRequest{
		JobId: content.JobID, Offset: content.Offset, Length: content.Length,
		Task: &haulv1.ReadContentRequest_TaskIndex{TaskIndex: content.Index},
	}
	if content.Key != "" {
		request.Task = &haulv1.ReadContentRequest_TaskKey{TaskKey: content.Key}
	}
	return &reader{client: c, ctx: ctx, cancel: cancel, request: request, retries: c.patience.retries()}
}

type reader struct {
	client  *Client
	ctx     context.Context
	cancel  context.CancelFunc
	request *haulv1.ReadContentRequest
	retries *retries
	stream  haulv1.ContentService_ReadContentClient
	left    []byte
	err     error
}

func (r *reader) Read(into []byte) (int, error) {
	for len(r.left) == 0 && len(into) > 0 {
		if r.err != nil {
			return 0, r.err
		}
		r.receive()
	}
	count := copy(into, r.left)
	r.left = r.left[count:]
	return count, nil
}

func (r *reader) Close() error {
	r.cancel()
	r.left, r.err = nil, io.ErrClosedPipe
	return nil
}

// receive gets the next piece, or sets the error.
func (r *reader) receive() {
	var err error
	if r.stream == nil {
		r.stream, err = r.client.Contents.ReadContent(r.ctx, r.request)
	}
	var message *haulv1.ReadContentResponse
	if err == nil {
		message, err = r.stream.Recv()
	}
	switch {
	case err == nil:
		r.retries.answered()
		r.left = message.Data
		r.moveTo(message.Offset + uint64(len(message.Data)))
	case errors.Is(err, io.EOF):
		r.err = io.EOF
	default:
		r.stream = nil
		if err := r.retries.wait(r.ctx, errorOf(err)); err != nil {
			r.err = err
		}
	}
	if r.err != nil {
		r.cancel() // Nothing more is asked for: neither the stream nor the context is kept for whoever does not Close.
	}
}

// moveTo makes the request one for what is still missing.
func (r *reader) moveTo(offset uint64) {
	if r.request.Length > 0 {
		r.request.Length -= offset - r.request.Offset
		if r.request.Length == 0 {
			r.err = io.EOF // A length of 0 would ask for all that follows.
		}
	}
	r.request.Offset = offset
}
