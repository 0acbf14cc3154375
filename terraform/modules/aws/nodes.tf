# What every node has. Instance type, subnet, user data and the tags of a launch come with the launch.
resource "aws_launch_template" "node" {
  name_prefix            = "${var.name}-node-"
  description            = "Nightshift nodes of ${var.name}"
  image_id               = coalesce(var.node_image_id, data.aws_ssm_parameter.image[var.node_architecture].insecure_value)
  vpc_security_group_ids = [aws_security_group.node.id]
  update_default_version = true
  tags                   = local.tags

  # A node that has lost its control plane for good powers itself off, and that must end its bill.
  instance_initiated_shutdown_behavior = "terminate"

  iam_instance_profile {
    arn = aws_iam_instance_profile.node.arn
  }

  # One hop: a container behind a bridge does not reach the node's role.
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  block_device_mappings {
    device_name = "/dev/xvda"

    ebs {
      volume_size           = var.node_disk_gib
      volume_type           = "gp3"
      encrypted             = true
      delete_on_termination = true
    }
  }

  tag_specifications {
    resource_type = "instance"
    tags          = merge(local.tags, { Name = "${var.name}-node" })
  }

  tag_specifications {
    resource_type = "volume"
    tags          = merge(local.tags, { Name = "${var.name}-node" })
  }
}
