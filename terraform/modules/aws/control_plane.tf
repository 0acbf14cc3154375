# One instance and a volume of its own for the log. A replaced instance takes the volume over and goes on where the last one was.

locals {
  data_device = "/dev/sdf"
  data_dir    = "/var/lib/nightshift"

  mount_script = <<-EOT
    #!/bin/sh
    # Mounts the volume of the log. It is attached a moment after the first boot, and formatted once in its life.
    set -eu
    udevadm wait --timeout=600 ${local.data_device}
    blkid ${local.data_device} >/dev/null || mkfs.ext4 -q -L nightshift ${local.data_device}
    mkdir -p ${local.data_dir}
    mountpoint -q ${local.data_dir} || mount -o noatime ${local.data_device} ${local.data_dir}
    chmod 0700 ${local.data_dir}
  EOT

  fetch_script = <<-EOT
    #!/bin/sh
    # fetch URL SHA256 PATH: puts a program in its place, if it is the one that was meant.
    set -eu
    curl --fail --silent --show-error --location --retry 5 --output "$3.new" "$1"
    echo "$2  $3.new" | sha256sum --check --status || { echo "what $1 gave is not what was configured" >&2; exit 1; }
    chmod 0755 "$3.new"
    mv "$3.new" "$3"
  EOT

  serve_script = <<-EOT
    #!/bin/sh
    # Serves, and tells the nodes by which address they reach this instance.
    set -eu
    metadata=http://169.254.169.254/latest
    token=$(curl --fail --silent --show-error --retry 5 --request PUT --header "X-aws-ec2-metadata-token-ttl-seconds: 60" $metadata/api/token)
    address=$(curl --fail --silent --show-error --retry 5 --header "X-aws-ec2-metadata-token: $token" $metadata/meta-data/local-ipv4)
    exec /usr/local/bin/nightshift serve --data-dir ${local.data_dir} --listen 0.0.0.0:${local.api_port} \
      --provider aws=/etc/nightshift/aws.json --agents-listen "$address:${local.agent_port}"
  EOT

  unit = <<-EOT
    [Unit]
    Description=Nightshift control plane
    Wants=network-online.target
    After=network-online.target

    [Service]
    ExecStartPre=/etc/nightshift/mount
    ExecStart=/etc/nightshift/serve
    Restart=always
    RestartSec=2
    TimeoutStartSec=900

    [Install]
    WantedBy=multi-user.target
  EOT

  fetches = var.nightshift == null ? [] : [
    ["/etc/nightshift/fetch", var.nightshift.url, var.nightshift.sha256, "/usr/local/bin/nightshift"],
    ["/etc/nightshift/fetch", var.nightshift.provider_url, var.nightshift.provider_sha256, "/usr/local/bin/nightshift-provider-aws"],
    ["systemctl", "enable", "--now", "nightshift.service"],
  ]

  # cloud-init takes JSON for YAML, so nothing is quoted by hand.
  user_data = "#cloud-config\n${jsonencode({
    write_files = [
      { path = "/etc/nightshift/aws.json", permissions = "0600", content = jsonencode(local.provider_config) },
      { path = "/etc/nightshift/mount", permissions = "0755", content = local.mount_script },
      { path = "/etc/nightshift/fetch", permissions = "0755", content = local.fetch_script },
      { path = "/etc/nightshift/serve", permissions = "0755", content = local.serve_script },
      { path = "/etc/systemd/system/nightshift.service", permissions = "0644", content = local.unit },
    ]
    runcmd = concat([["systemctl", "daemon-reload"]], local.fetches)
  })}\n"
}

data "aws_subnet" "control_plane" {
  id = local.subnet_ids[0]
}

resource "aws_instance" "control_plane" {
  ami                         = data.aws_ssm_parameter.image[var.control_plane_architecture].insecure_value
  instance_type               = var.control_plane_instance_type
  subnet_id                   = local.subnet_ids[0]
  vpc_security_group_ids      = [aws_security_group.control_plane.id]
  iam_instance_profile        = aws_iam_instance_profile.control_plane.name
  user_data                   = local.user_data
  user_data_replace_on_change = true
  tags                        = merge(local.tags, { Name = "${var.name}-control-plane" })

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  root_block_device {
    volume_type = "gp3"
    volume_size = 16
    encrypted   = true
    tags        = merge(local.tags, { Name = "${var.name}-control-plane" })
  }

  lifecycle {
    # A newer image is taken when the operator replaces the instance, not whenever Amazon publishes one.
    ignore_changes = [ami]

    precondition {
      condition     = local.make_vpc || length(var.subnet_ids) > 0
      error_message = "vpc_id needs subnet_ids."
    }

    precondition {
      condition     = !local.make_vpc || length(var.subnet_ids) == 0
      error_message = "subnet_ids need vpc_id."
    }
  }
}

resource "aws_ebs_volume" "data" {
  availability_zone = data.aws_subnet.control_plane.availability_zone
  size              = var.data_volume_gib
  type              = "gp3"
  encrypted         = true
  tags              = merge(local.tags, { Name = "${var.name}-log" })

  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_volume_attachment" "data" {
  device_name                    = local.data_device
  volume_id                      = aws_ebs_volume.data.id
  instance_id                    = aws_instance.control_plane.id
  stop_instance_before_detaching = true
}
