// What is read to its end leaves nothing running, also where only a part was asked for and nobody closes it.
//
// Run by tests/clients.rs as `client ADDRESS URL`.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"runtime"
	"time"

	haul "haul/client"
	"haul/client/haulv1"
)

const (
	rounds = 50
	// others are goroutines of gRPC that come and go with its connection.
	others = 10
)

func main() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	client, err := haul.New(os.Args[1], haul.Options{})
	check(err)
	defer client.Close()
	task := &haulv1.TaskSpec{Work: &haulv1.TaskSpec_Fetch{Fetch: &haulv1.FetchSpec{Url: os.Args[2]}}}
	job, err := client.Submit(ctx, &haulv1.JobSpec{Tasks: []*haulv1.TaskSpec{task}}, "")
	check(err)
	watch := client.Watch(ctx, job.JobId, 0)
	for watch.Next() {
	}
	check(watch.Err())
	before := runtime.NumGoroutine()
	for round := 0; round < rounds; round++ {
		part, err := io.ReadAll(client.Read(ctx, haul.Content{JobID: job.JobId, Length: 2}))
		check(err)
		if string(part) != "al" {
			log.Fatalf("%q", part)
		}
	}
	for limit := time.Now().Add(50 * time.Second); runtime.NumGoroutine() > before+others; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(limit) {
			log.Fatal("something is left running")
		}
	}
	fmt.Println("nothing is left")
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
