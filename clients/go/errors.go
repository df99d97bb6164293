package haul

import (
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Violation is a field of the request that is wrong, by its path (job.tasks[3].fetch.url), and why.
type Violation struct {
	Field, Description string
}

// Error is a call that failed.
type Error struct {
	// Code is that of gRPC.
	Code codes.Code
	// Message tells a person what to change.
	Message string
	// Reason is stable, and explained in docs/ERRORS.md. It is empty where no haul server answered.
	Reason string
	// Violations has every wrong field of an InvalidArgument.
	Violations []Violation
	// RetryDelay is how long the server asks to wait before another try; 0 where it does not say so.
	RetryDelay time.Duration

	status *status.Status
}

func (e *Error) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("haul: %s: %s", e.Code, e.Message)
	}
	return fmt.Sprintf("haul: %s (%s): %s", e.Code, e.Reason, e.Message)
}

// GRPCStatus is what status.FromError asks for.
func (e *Error) GRPCStatus() *status.Status {
	return e.status
}

// IsCut says whether the connection broke or the server is away, so that the call can be made again.
//
// A haul server gives a reason with each error of its own, so that one without is the connection's or a proxy's.
func (e *Error) IsCut() bool {
	return e.Code == codes.Unavailable || (e.Reason == "" && (e.Code == codes.Unknown || e.Code == codes.Internal))
}

func errorOf(err error) *Error {
	if own, is := err.(*Error); is {
		return own
	}
	from := status.Convert(err)
	found := &Error{Code: from.Code(), Message: from.Message(), status: from}
	for _, detail := range from.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			found.Reason = detail.Reason
		case *errdetails.BadRequest:
			for _, it := range detail.FieldViolations {
				found.Violations = append(found.Violations, Violation{it.Field, it.Description})
			}
		case *errdetails.RetryInfo:
			delay := detail.RetryDelay
			found.RetryDelay = time.Duration(delay.GetSeconds())*time.Second + time.Duration(delay.GetNanos())
		}
	}
	return found
}
