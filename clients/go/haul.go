// Package haul is the client of haul, the server for durable fetch and download jobs. The messages are in haul/client/haulv1.
package haul

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"

	"haul/client/haulv1"
)

const (
	defaultTimeout  = 30 * time.Second
	defaultPatience = 5 * time.Minute
	maxMessage      = 64 << 20
)

// A server that is silent for Time while a call is open is asked, and given up after Timeout: it may be gone without a word,
// and a watch would wait for ever.
var pings = keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 20 * time.Second}

// Options say how a server is reached and who calls. The zero value is good for a server on this machine.
type Options struct {
	// Token goes to this machine or over TLS, and nowhere else.
	Token string
	// Tenant is what the calls are about.
	Tenant string
	// CA is a file with the certificates of the authorities that are trusted; without it those of the system are.
	CA string
	// Cert and Key are files with the certificate and the key of the client.
	Cert, Key string
	// Timeout is the deadline of calls with one answer whose context has none: 30 s if it is 0.
	Timeout time.Duration
	// Patience is how long a server that was reached once is waited for when it is away: 5 min if it is 0. A new one: 10 s at
	// most.
	Patience time.Duration
	// Dial is given to gRPC behind what Client sets itself.
	Dial []grpc.DialOption
}

// Client is a server, connected to with the first call. It may be shared by goroutines.
//
// Submit, Feed, Watch and Read go on by themselves when the connection breaks or the server restarts. Jobs, Contents, Admin
// and Access are the generated clients, for all other calls: calls with one answer have a deadline without being asked to,
// and their errors are of type *Error.
type Client struct {
	Jobs     haulv1.JobServiceClient
	Contents haulv1.ContentServiceClient
	Admin    haulv1.AdminServiceClient
	Access   haulv1.AccessServiceClient

	conn     *grpc.ClientConn
	timeout  time.Duration
	patience patience
}

// New makes a client of the server at host:port, http://host:port, https://host:port or unix:/path. It does not connect.
func New(address string, options Options) (*Client, error) {
	place, err := parse(address, options)
	if err != nil {
		return nil, err
	}
	client := &Client{timeout: options.Timeout}
	if client.timeout == 0 {
		client.timeout = defaultTimeout
	}
	client.patience.bound = options.Patience
	if client.patience.bound == 0 {
		client.patience.bound = defaultPatience
	}
	who := metadata.MD{}
	if options.Token != "" {
		who.Set("authorization", "Bearer "+strings.TrimSpace(options.Token))
	}
	if options.Tenant != "" {
		who.Set("haul-tenant", options.Tenant)
	}
	dial := append([]grpc.DialOption{
		place.security,
		grpc.WithKeepaliveParams(pings),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second},
			MinConnectTimeout: 10 * time.Second,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithChainUnaryInterceptor(client.unary(who)),
		grpc.WithChainStreamInterceptor(stream(who)),
	}, options.Dial...)
	if place.socket != "" {
		dial = append(dial, grpc.WithAuthority("localhost"), grpc.WithContextDialer(
			func(ctx context.Context, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "unix", place.socket)
			}))
	}
	client.conn, err = grpc.Dial(place.target, dial...)
	if err != nil {
		return nil, fmt.Errorf("haul: %q cannot be used: %w", address, err)
	}
	client.Jobs = haulv1.NewJobServiceClient(client.conn)
	client.Contents = haulv1.NewContentServiceClient(client.conn)
	client.Admin = haulv1.NewAdminServiceClient(client.conn)
	client.Access = haulv1.NewAccessServiceClient(client.conn)
	return client, nil
}

// Close ends the connection, and all calls.
func (c *Client) Close() error {
	return c.conn.Close()
}

// Submit submits a job, once: however often the connection breaks. It is durable when Submit returns. A requestID makes the
// submission one and the same over several processes; it may be empty.
func (c *Client) Submit(ctx context.Context, job *haulv1.JobSpec, requestID string) (*haulv1.Job, error) {
	if requestID == "" {
		var err error
		if requestID, err = newID(); err != nil {
			return nil, err
		}
	}
	request := &haulv1.SubmitJobRequest{RequestId: requestID, Job: job}
	retries := c.patience.retries()
	for {
		answer, err := c.Jobs.SubmitJob(ctx, request)
		if err == nil {
			retries.answered()
			return answer.Job, nil
		}
		if err := retries.wait(ctx, errorOf(err)); err != nil {
			return nil, err
		}
	}
}

func newID() (string, error) {
	var id [16]byte
	if _, err := rand.Read(id[:]); err != nil {
		return "", fmt.Errorf("haul: there is no chance to make an id of: %w", err)
	}
	return fmt.Sprintf("%x", id), nil
}

// unary says with each call who calls, and gives those with one answer a deadline and their errors a type.
func (c *Client) unary(who metadata.MD) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, request, reply interface{}, conn *grpc.ClientConn,
		invoker grpc.UnaryInvoker, options ...grpc.CallOption) error {
		if _, has := ctx.Deadline(); !has {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, c.timeout)
			defer cancel()
		}
		if err := invoker(with(ctx, who), method, request, reply, conn, options...); err != nil {
			return errorOf(err)
		}
		return nil
	}
}

func stream(who metadata.MD) grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string,
		streamer grpc.Streamer, options ...grpc.CallOption) (grpc.ClientStream, error) {
		return streamer(with(ctx, who), desc, conn, method, options...)
	}
}

func with(ctx context.Context, who metadata.MD) context.Context {
	own, _ := metadata.FromOutgoingContext(ctx)
	return metadata.NewOutgoingContext(ctx, metadata.Join(own, who))
}

// place is where a server is.
type place struct {
	target, socket string
	security       grpc.DialOption
}

func parse(address string, options Options) (place, error) {
	found := place{security: grpc.WithInsecure()}
	isSecure, isNear := false, true
	if path := strings.TrimPrefix(address, "unix:"); path != address {
		found.socket = strings.TrimPrefix(path, "//")
		found.target = "passthrough:///localhost"
	} else {
		text := address
		if !strings.Contains(text, "://") {
			text = "http://" + text
		}
		parsed, err := url.Parse(text)
		if err != nil || (parsed.Scheme != "http" && parsed.Scheme != "https") || parsed.Hostname() == "" ||
			strings.Trim(parsed.Path, "/") != "" {
			return found, fmt.Errorf("haul: %q is not the address of a server; write it like \"127.0.0.1:4285\"", address)
		}
		port := parsed.Port()
		if port == "" {
			port = "4285"
		}
		isSecure, isNear = parsed.Scheme == "https", isLoopback(parsed.Hostname())
		found.target = "dns:///" + net.JoinHostPort(parsed.Hostname(), port)
	}
	switch {
	case !isSecure && (options.CA != "" || options.Cert != "" || options.Key != ""):
		return found, fmt.Errorf("haul: certificates need TLS, and %q does not begin with https://", address)
	case (options.Cert == "") != (options.Key == ""):
		return found, errors.New("haul: Cert and Key go together; give both or neither")
	case options.Token != "" && !isSecure && !isNear:
		return found, fmt.Errorf("haul: a token must not go to %q without TLS, since whoever is on the way could read it", address)
	}
	if isSecure {
		config, err := tlsConfig(options)
		if err != nil {
			return found, err
		}
		found.security = grpc.WithTransportCredentials(credentials.NewTLS(config))
	}
	return found, nil
}

func isLoopback(host string) bool {
	address := net.ParseIP(host)
	return host == "localhost" || (address != nil && address.IsLoopback())
}

func tlsConfig(options Options) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if options.CA != "" {
		pem, err := os.ReadFile(options.CA)
		if err != nil {
			return nil, fmt.Errorf("haul: the authorities cannot be read: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("haul: there is no certificate in %q", options.CA)
		}
	}
	if options.Cert != "" {
		pair, err := tls.LoadX509KeyPair(options.Cert, options.Key)
		if err != nil {
			return nil, fmt.Errorf("haul: the client's certificate cannot be used: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}
