package kmswrap

import (
	"errors"
	"fmt"

	"github.com/aws/smithy-go"
)

// remedies say what to do about what KMS may answer.
var remedies = map[string]string{
	"AccessDeniedException":         "these credentials may not use the key; its policy must allow kms:GenerateDataKey to publishers and kms:Decrypt to readers",
	"ExpiredTokenException":         "the credentials have expired; get new ones (aws sso login, or the role again)",
	"InvalidSignatureException":     "the signature is not accepted; check the secret access key and this machine's clock",
	"UnrecognizedClientException":   "the access key is not known; check the credentials and the region",
	"MissingAuthenticationToken":    "there are no credentials; see the AWS documentation for where they are looked for",
	"NotFoundException":             "there is no such key in that region and account",
	"DisabledException":             "the key is disabled",
	"KMSInvalidStateException":      "the key is not usable in its state (pending deletion, or being imported)",
	"InvalidKeyUsageException":      "the key is not for encryption; a symmetric key is needed",
	"IncorrectKeyException":         "the data key was made by another key",
	"InvalidCiphertextException":    "the data key was changed, or made for another image",
	"ThrottlingException":           "too many calls; try again later",
	"LimitExceededException":        "a quota of the account is used up",
	"KeyUnavailableException":       "the key is not available now; try again",
	"KMSInternalException":          "KMS had a fault; try again",
	"DependencyTimeoutException":    "KMS had a fault; try again",
	"RequestExpired":                "the request was too old on arrival; check this machine's clock",
	"RequestTimeTooSkewed":          "this machine's clock is wrong",
	"OptInRequired":                 "the account may not use KMS in that region",
	"IncompleteSignature":           "the credentials are damaged",
	"InvalidClientTokenId":          "the access key is not known; check the credentials",
	"UnknownOperationException":     "this is no KMS; check the endpoint",
	"InvalidArnException":           "the ARN is malformed",
	"InvalidGrantTokenException":    "the grant is not valid",
	"UnsupportedOperationException": "the key does not support data keys; a symmetric key is needed",
}

// explain turns an error of KMS into one that says what to do. It has no bytes
// of requests or answers.
func explain(op, key string, err error) error {
	var api smithy.APIError
	if errors.As(err, &api) {
		if remedy, ok := remedies[api.ErrorCode()]; ok {
			return fmt.Errorf("%s with KMS key %s: %s: %w", op, key, remedy, err)
		}
	}
	return fmt.Errorf("%s with KMS key %s: %w", op, key, err)
}
