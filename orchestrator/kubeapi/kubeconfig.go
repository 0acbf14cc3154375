package kubeapi

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// WriteKubeconfig writes a kubeconfig for the administrator, who reaches the server at address, as "127.0.0.1:6443". The file
// appears complete or not at all, readable by its owner alone, in place of a former one.
func (s *Server) WriteKubeconfig(path, address string) error {
	if _, _, err := net.SplitHostPort(address); err != nil {
		return fmt.Errorf("kubeconfig: %w", err)
	}
	certificate, key, err := s.config.Authority.ClientCertificate(AdminUser, AdminGroup)
	if err != nil {
		return fmt.Errorf("kubeconfig: %w", err)
	}
	const name = "nightshift"
	config := clientcmdapi.NewConfig()
	config.Clusters[name] = &clientcmdapi.Cluster{Server: "https://" + address, CertificateAuthorityData: s.config.Authority.CAPEM()}
	config.AuthInfos[AdminUser] = &clientcmdapi.AuthInfo{ClientCertificateData: certificate, ClientKeyData: key}
	config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: AdminUser}
	config.CurrentContext = name
	text, err := clientcmd.Write(*config)
	if err != nil {
		return fmt.Errorf("kubeconfig: %w", err)
	}
	if err := replaceFile(path, text); err != nil {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	return nil
}

// replaceFile puts a file with mode 0600 in place of what was there, in one step.
func replaceFile(path string, text []byte) error {
	file, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	if err = errors.Join(err, file.Sync(), file.Close()); err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	return nil
}
