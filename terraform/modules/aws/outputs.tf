output "api_url" {
  description = "Where the API answers, to those in api_allowed_cidrs. The address is public if the subnet gives one."
  value       = "https://${coalesce(aws_instance.control_plane.public_ip, aws_instance.control_plane.private_ip)}:${local.api_port}"
}

output "control_plane_instance_id" {
  description = "The instance of the control plane."
  value       = aws_instance.control_plane.id
}

output "provider_config" {
  description = "Configuration of the aws provider, JSON, for nightshift --provider aws=FILE from a machine of your own."
  value       = jsonencode(local.provider_config)
}

output "launch_template_id" {
  description = "The launch template of the nodes."
  value       = aws_launch_template.node.id
}

output "node_role_name" {
  description = "The role of the nodes, for policies that Jobs need."
  value       = aws_iam_role.node.name
}

output "archive_bucket" {
  description = "The bucket of the archive."
  value       = aws_s3_bucket.archive.bucket
}

output "notices_queue_url" {
  description = "The queue of interruption warnings, rebalance recommendations and state changes."
  value       = aws_sqs_queue.notices.url
}

output "subnet_ids" {
  description = "The subnets of the nodes."
  value       = local.subnet_ids
}
