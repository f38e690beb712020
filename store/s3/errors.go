package s3

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/store/internal/link"
	"github.com/rivuletfs/rivulet/store/internal/retry"
)

// An Error says why a server refused, and what to do. Errors.As finds it.
type Error struct {
	Code   string // the server's, such as "NoSuchBucket"; "": there was no answer
	Status int    // HTTP status; 0: there was no answer
	Reason string // without secrets
	Advice string // what to do; "": nothing is known
}

func (e *Error) Error() string {
	if e.Advice == "" {
		return e.Reason
	}
	return e.Reason + ": " + e.Advice
}

// judge makes the error of one request ours: chunk.ErrNotFound, an [Error], or
// what ended the request; in a retry.Failure if trying again may help.
func (c *client) judge(n *note, err error) error {
	var answer minio.ErrorResponse
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrNoCredentials):
		return err
	case errors.As(err, &answer):
		return c.judgeAnswer(n, &answer)
	case errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return context.DeadlineExceeded
	}
	e := &Error{Reason: c.keys.clean(err.Error()), Advice: link.Hint(err, c.endpoint())}
	if link.Permanent(err) {
		return e
	}
	// A connection that had been used before and ended without an answer was
	// closed while idle.
	return &retry.Failure{Err: e, Free: n.status == 0 && n.reused && !n.answered.Load()}
}

// endpoint returns what the requests go to, for people.
func (c *client) endpoint() string {
	if c.config.Endpoint != nil {
		return c.config.Endpoint.String()
	}
	return "Amazon S3 in " + c.config.region()
}

func (c *client) judgeAnswer(n *note, r *minio.ErrorResponse) error {
	status := r.StatusCode
	if status == 0 {
		status = n.status
	}
	if r.Code == minio.NoSuchKey || r.Code == "NoSuchVersion" || status == http.StatusNotFound && r.Code != minio.NoSuchBucket {
		return chunk.ErrNotFound
	}
	e := &Error{Code: c.keys.clean(r.Code), Status: status, Reason: c.keys.clean(r.Error()), Advice: c.advice(n, status, r)}
	if e.Code != "" && e.Code != e.Reason {
		e.Reason += " (" + e.Code + ")"
	}
	switch {
	case isExpired(r.Code) && c.creds != nil:
		// Whoever renews them may have done so already.
		c.creds.Expire()
		return &retry.Failure{Err: e}
	case link.Transient(status), r.Code == "SlowDown", r.Code == "InternalError",
		r.Code == "ConditionalRequestConflict", r.Code == "OperationAborted", r.Code == "RequestTimeout":
		return &retry.Failure{Err: e, After: n.retryAfter}
	}
	return e
}

func isExpired(code string) bool {
	return code == "ExpiredToken" || code == "ExpiredTokenException" || code == "TokenRefreshRequired"
}

// advice says what to do about an answer.
func (c *client) advice(n *note, status int, r *minio.ErrorResponse) string {
	switch r.Code {
	case minio.NoSuchBucket:
		return fmt.Sprintf("there is no bucket %s at %s; make it, or check name and endpoint", c.config.Bucket, c.endpoint())
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidTokenId", "InvalidToken", "AuthFailure":
		return fmt.Sprintf("%s does not know these credentials; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or the profile", c.endpoint())
	case "RequestTimeTooSkewed":
		return "this machine's clock is wrong" + skew(n.date) + "; set it"
	case "AuthorizationHeaderMalformed", minio.InvalidRegion, "PermanentRedirect", "IllegalLocationConstraintException":
		if r.Region != "" {
			return fmt.Sprintf("the bucket is in another region; add region=%.40s to the store's URL", c.keys.clean(r.Region))
		}
		return fmt.Sprintf("the bucket is not in region %s; add region=REGION to the store's URL", c.config.region())
	}
	switch {
	case isExpired(r.Code):
		return "the credentials have expired; renew them (aws sso login, say) and run this again"
	case status == http.StatusForbidden && c.creds == nil:
		return fmt.Sprintf("bucket %s is not open to all; leave out anonymous=true", c.config.Bucket)
	case status == http.StatusForbidden:
		return fmt.Sprintf("the credentials do not allow this; they need to get, put, delete and list objects of bucket %s", c.config.Bucket)
	case status == http.StatusMovedPermanently || status == http.StatusTemporaryRedirect:
		return "the bucket is elsewhere; check endpoint and region of the store's URL"
	case link.Transient(status):
		return "the server is in trouble or has too much to do; try again later, or with connections=8 in the store's URL"
	}
	return ""
}

// skew says how far this machine's clock is off, by the date of an answer.
func skew(date string) string {
	at, err := http.ParseTime(date)
	if err != nil {
		return ""
	}
	off := time.Since(at).Round(time.Second)
	if off < 0 {
		return fmt.Sprintf(", %v behind the server's", -off)
	}
	return fmt.Sprintf(", %v before the server's", off)
}
