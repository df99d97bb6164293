package haul

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"haul/client/haulv1"
)

const (
	// A chunk is closed by whichever it reaches first. The server takes 10,000 tasks and 16 MiB.
	chunkTasks = 1_000
	chunkBytes = 1 << 20
	// window is how many chunks one stream has; that many are held in memory until they are answered.
	window = 8
)

// Tasks gives one task after the other, and io.EOF behind the last.
type Tasks func() (*haulv1.TaskSpec, error)

// Slice gives the tasks of a slice.
func Slice(tasks []*haulv1.TaskSpec) Tasks {
	return func() (*haulv1.TaskSpec, error) {
		if len(tasks) == 0 {
			return nil, io.EOF
		}
		task := tasks[0]
		tasks = tasks[1:]
		return task, nil
	}
}

// Feed adds tasks to an open job, each once, and returns how many. They are durable when Feed returns.
//
// The tasks are taken as they are sent, so there may be any number of them. To go on after this process died, feed all of the
// same tasks again: what is there already is not added twice. An error of tasks ends Feed and is returned as it is.
func (c *Client) Feed(ctx context.Context, jobID string, tasks Tasks) (int, error) {
	feed := feed{client: c, chunker: chunker{jobID: jobID}}
	for {
		task, err := tasks()
		if err != nil && !errors.Is(err, io.EOF) {
			return feed.count, err
		}
		chunk, chunkErr := feed.chunker.push(task)
		if chunkErr != nil {
			return feed.count, chunkErr
		}
		if chunk != nil {
			feed.window = append(feed.window, chunk)
		}
		if len(feed.window) == window || err != nil {
			if err := feed.send(ctx); err != nil {
				return feed.count, err
			}
		}
		if err != nil {
			return feed.count, nil
		}
	}
}

// feed are the chunks that are sent and not answered yet.
type feed struct {
	client  *Client
	chunker chunker
	window  []*haulv1.AddTasksRequest
	count   int
}

// send sends what is in the window until all of it is answered.
func (f *feed) send(ctx context.Context) error {
	retries := f.client.patience.retries()
	for len(f.window) > 0 {
		if err := f.sendOnce(ctx, retries); err != nil {
			if err := retries.wait(ctx, errorOf(err)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *feed) sendOnce(ctx context.Context, retries *retries) error {
	ctx, cancel := context.WithTimeout(ctx, f.client.timeout)
	defer cancel()
	stream, err := f.client.Jobs.AddTasks(ctx)
	if err != nil {
		return err
	}
	for _, chunk := range f.window {
		if stream.Send(chunk) != nil {
			break // Recv has the error.
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		answer, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		retries.answered()
		// Answers come in order.
		if len(f.window) > 0 && f.window[0].ChunkId == answer.ChunkId {
			f.count += len(f.window[0].Tasks)
			f.window = f.window[1:]
		}
	}
	if len(f.window) > 0 {
		return &Error{Code: codes.Internal, Message: "the stream ended before all chunks were answered"}
	}
	return nil
}

// chunker gathers tasks into chunks. The id of a chunk is its place and its content, so the same tasks give the same chunks.
type chunker struct {
	jobID string
	start int
	bytes int
	tasks []*haulv1.TaskSpec
}

// push takes a task, or nil for the end, and returns the chunk that is closed by it.
func (c *chunker) push(task *haulv1.TaskSpec) (*haulv1.AddTasksRequest, error) {
	size := proto.Size(task)
	var closed *haulv1.AddTasksRequest
	if len(c.tasks) > 0 && (task == nil || len(c.tasks) == chunkTasks || c.bytes+size > chunkBytes) {
		closed = &haulv1.AddTasksRequest{JobId: c.jobID, Tasks: c.tasks}
		encoded, err := proto.MarshalOptions{Deterministic: true}.Marshal(closed)
		if err != nil {
			return nil, fmt.Errorf("haul: the tasks from %d on cannot be sent: %w", c.start, err)
		}
		digest := sha256.Sum256(encoded)
		closed.ChunkId = fmt.Sprintf("%d-%x", c.start, digest[:16])
		c.start += len(c.tasks)
		c.tasks, c.bytes = nil, 0
	}
	if task != nil {
		c.tasks = append(c.tasks, task)
		c.bytes += size
	}
	return closed, nil
}
