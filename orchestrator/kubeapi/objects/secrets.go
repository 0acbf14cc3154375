package objects

import (
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Sealer encrypts what must not be read at rest. What was sealed for one purpose cannot be opened for another.
type Sealer interface {
	Seal(plain []byte, purpose string) ([]byte, error)
	Open(sealed []byte, purpose string) ([]byte, error)
}

// sealedKey holds what is sealed of a Secret, in its data. No key of a user is empty.
const sealedKey = ""

// purposeOf ties what is sealed to its Secret.
func purposeOf(secret *corev1.Secret) string {
	return fmt.Sprintf("secret %s/%s %s", secret.Namespace, secret.Name, secret.UID)
}

// seal seals a Secret in place; other objects it leaves as they are.
func (c Config) seal(o runtime.Object) error {
	secret, ok := o.(*corev1.Secret)
	if !ok {
		return nil
	}
	if c.Sealer == nil {
		return apierrors.NewInternalError(errors.New("this control plane has no key for Secrets"))
	}
	// Written as protobuf, in which data is as long as it is.
	part := corev1.Secret{ObjectMeta: metav1.ObjectMeta{Annotations: secret.Annotations}, Data: secret.Data}
	plain, err := part.Marshal()
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	sealed, err := c.Sealer.Seal(plain, purposeOf(secret))
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("seal secret %s/%s: %w", secret.Namespace, secret.Name, err))
	}
	secret.Data, secret.StringData, secret.Annotations = map[string][]byte{sealedKey: sealed}, nil, nil
	return nil
}

// open opens a Secret in place; other objects it leaves as they are, and a bookmark, which holds nothing.
func (c Config) open(o runtime.Object) error {
	secret, ok := o.(*corev1.Secret)
	if !ok || secret.Data[sealedKey] == nil {
		return nil
	}
	if c.Sealer == nil {
		return apierrors.NewInternalError(errors.New("this control plane has no key for Secrets"))
	}
	plain, err := c.Sealer.Open(secret.Data[sealedKey], purposeOf(secret))
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("open secret %s/%s: %w", secret.Namespace, secret.Name, err))
	}
	var part corev1.Secret
	if err := part.Unmarshal(plain); err != nil {
		return apierrors.NewInternalError(err)
	}
	secret.Data, secret.Annotations = part.Data, part.Annotations
	return nil
}
