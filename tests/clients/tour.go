// What the Go client does while its server is killed.
//
// Run by tests/clients.rs as `tour ADDRESS ORIGIN COUNT`. It says where it is on stdout; `kill` asks for the server to be
// killed and started again, and it goes on at once.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"strconv"

	"google.golang.org/grpc/codes"

	haul "haul/client"
	"haul/client/haulv1"
)

var ctx = context.Background()

func kill() {
	fmt.Println("kill")
}

func check(err error) {
	if err != nil {
		log.Panic(err)
	}
}

func must(holds bool, what ...interface{}) {
	if !holds {
		log.Panic(what...)
	}
}

func fetch(key, url string) *haulv1.TaskSpec {
	return &haulv1.TaskSpec{Key: key, Work: &haulv1.TaskSpec_Fetch{Fetch: &haulv1.FetchSpec{Url: url}}}
}

// tasks are more than are held in memory at once, with two kills in their midst.
func tasks(origin string, count int, killAt ...int) haul.Tasks {
	number := 0
	return func() (*haulv1.TaskSpec, error) {
		if number == count {
			return nil, io.EOF
		}
		for _, at := range killAt {
			if number == at {
				kill()
			}
		}
		task := fetch(fmt.Sprint("task ", number), fmt.Sprintf("%s/many?n=%d", origin, number))
		number++
		return task, nil
	}
}

func watched(client *haul.Client, origin string) string {
	spec := &haulv1.JobSpec{
		Title: "watched",
		Group: &haulv1.GroupPolicy{Mode: haulv1.GroupMode_GROUP_MODE_COLLECT},
		Tasks: []*haulv1.TaskSpec{
			fetch("quick", origin+"/quick"), fetch("slow", origin+"/slow"), fetch("missing", origin+"/missing"),
		},
	}
	job, err := client.Submit(ctx, spec, "tour")
	check(err)
	again, err := client.Submit(ctx, spec, "tour")
	check(err)
	must(again.JobId == job.JobId, "it is submitted twice")
	count, ended := uint64(0), map[uint32]int{}
	watch := client.Watch(ctx, job.JobId, 0)
	defer watch.Close()
	for watch.Next() {
		count++
		must(watch.Event().Sequence == count, "after ", count, " comes ", watch.Event().Sequence)
		if task := watch.Event().GetTaskEnded(); task != nil {
			ended[task.TaskIndex]++
		}
		if count == 2 {
			kill()
		}
	}
	check(watch.Err())
	must(len(ended) == 3 && watch.Event().GetJobEnded() != nil, ended)
	fmt.Println("watched", count)
	return job.JobId
}

func read(client *haul.Client, content haul.Content) string {
	reader := client.Read(ctx, content)
	defer reader.Close()
	bytes, err := io.ReadAll(reader)
	check(err)
	return string(bytes)
}

func fed(client *haul.Client, origin string, count int) {
	job, err := client.Submit(ctx, &haulv1.JobSpec{Title: "fed", Open: true}, "")
	check(err)
	_, err = client.Jobs.PauseJob(ctx, &haulv1.PauseJobRequest{JobId: job.JobId})
	check(err)
	added, err := client.Feed(ctx, job.JobId, tasks(origin, count, count/3, count/3*2))
	check(err)
	must(added == count, added)
	// As after the death of this process.
	added, err = client.Feed(ctx, job.JobId, tasks(origin, count/4))
	check(err)
	must(added == count/4, added)
	sealed, err := client.Jobs.SealJob(ctx, &haulv1.SealJobRequest{JobId: job.JobId})
	check(err)
	fmt.Println("fed", sealed.Job.Counts.Total)
	_, err = client.Jobs.CancelJob(ctx, &haulv1.CancelJobRequest{JobId: job.JobId})
	check(err)
}

// refused checks that what is wrong is an error with all that the server says.
func refused(client *haul.Client) {
	var failed *haul.Error
	_, err := client.Submit(ctx, &haulv1.JobSpec{Tasks: []*haulv1.TaskSpec{fetch("", "example.com"), {Key: "k"}}}, "")
	must(errors.As(err, &failed), err)
	must(failed.Code == codes.InvalidArgument && failed.Reason == "INVALID_ARGUMENT", err)
	must(len(failed.Violations) == 2 && failed.Violations[0].Field == "job.tasks[0].fetch.url", failed.Violations)
	_, err = client.Jobs.GetJob(ctx, &haulv1.GetJobRequest{JobId: "01900000-0000-7000-8000-000000000000"})
	must(errors.As(err, &failed), err)
	must(failed.Code == codes.NotFound && failed.Reason == "JOB_NOT_FOUND" && failed.RetryDelay == 0, err)
	fmt.Println("refused")
}

func main() {
	address, origin := os.Args[1], os.Args[2]
	count, err := strconv.Atoi(os.Args[3])
	check(err)
	client, err := haul.New(address, haul.Options{})
	check(err)
	defer client.Close()
	job := watched(client, origin)
	must(read(client, haul.Content{JobID: job, Key: "quick"}) == "quick", "the content is another")
	must(read(client, haul.Content{JobID: job, Offset: 1, Length: 3}) == "uic", "the part is another")
	fed(client, origin, count)
	refused(client)
}
