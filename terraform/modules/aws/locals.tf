data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}
data "aws_region" "current" {}

data "aws_availability_zones" "usable" {
  state = "available"

  # Local Zones have other prices and few instance types.
  filter {
    name   = "opt-in-status"
    values = ["opt-in-not-required"]
  }
}

data "aws_ssm_parameter" "image" {
  for_each = toset([var.control_plane_architecture, var.node_architecture])
  name     = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-${each.key}"
}

locals {
  # The mark of this installation. IAM allows the control plane to touch what has it, and nothing else.
  mark_key = "nightshift/installation"
  tags     = merge(var.tags, { (local.mark_key) = var.name })

  partition = data.aws_partition.current.partition
  account   = data.aws_caller_identity.current.account_id
  region    = data.aws_region.current.name
  ec2_arn   = "arn:${local.partition}:ec2:${local.region}:${local.account}"

  make_vpc   = var.vpc_id == null
  vpc_id     = local.make_vpc ? aws_vpc.this[0].id : var.vpc_id
  subnet_ids = local.make_vpc ? aws_subnet.public[*].id : var.subnet_ids

  api_port   = 6443
  agent_port = 7443

  # The configuration of the aws provider, as nightshift serve --provider aws=FILE takes it.
  provider_config = {
    region                      = local.region
    subnetIds                   = local.subnet_ids
    instanceTypes               = sort(keys(var.node_on_demand_prices))
    onDemandPricesMicrosPerHour = var.node_on_demand_prices
    launchTemplate              = { id = aws_launch_template.node.id }
    agent                       = var.agents
    tags                        = local.tags
  }
}
