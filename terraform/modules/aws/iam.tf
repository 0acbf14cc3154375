data "aws_iam_policy_document" "ec2_assumes" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

# A node needs nothing of AWS: what it fetches is public, and what it sends goes over its session. What Jobs need is attached by
# the operator.

resource "aws_iam_role" "node" {
  name_prefix          = "${var.name}-node-"
  assume_role_policy   = data.aws_iam_policy_document.ec2_assumes.json
  permissions_boundary = var.permissions_boundary_arn
  tags                 = local.tags
}

resource "aws_iam_role_policy_attachment" "node" {
  for_each   = var.node_policy_arns
  role       = aws_iam_role.node.name
  policy_arn = each.value
}

resource "aws_iam_instance_profile" "node" {
  name_prefix = "${var.name}-node-"
  role        = aws_iam_role.node.name
  tags        = local.tags
}

# The control plane launches from one template, and ends what carries its mark.

resource "aws_iam_role" "control_plane" {
  name_prefix          = "${var.name}-control-plane-"
  assume_role_policy   = data.aws_iam_policy_document.ec2_assumes.json
  permissions_boundary = var.permissions_boundary_arn
  tags                 = local.tags
}

resource "aws_iam_instance_profile" "control_plane" {
  name_prefix = "${var.name}-control-plane-"
  role        = aws_iam_role.control_plane.name
  tags        = local.tags
}

resource "aws_iam_role_policy" "control_plane" {
  name_prefix = "${var.name}-control-plane-"
  role        = aws_iam_role.control_plane.id
  policy      = data.aws_iam_policy_document.control_plane.json
}

data "aws_iam_policy_document" "control_plane" {
  # EC2 does not restrict looking by resource.
  statement {
    sid = "Look"
    actions = [
      "ec2:DescribeImages",
      "ec2:DescribeInstanceAttribute",
      "ec2:DescribeInstanceTypeOfferings",
      "ec2:DescribeInstanceTypes",
      "ec2:DescribeInstances",
      "ec2:DescribeLaunchTemplateVersions",
      "ec2:DescribeLaunchTemplates",
      "ec2:DescribeSpotPriceHistory",
      "ec2:DescribeSubnets",
    ]
    resources = ["*"]
  }

  # What a launch makes has to carry the mark from its first moment.
  statement {
    sid       = "LaunchMarked"
    actions   = ["ec2:CreateFleet", "ec2:RunInstances"]
    resources = ["${local.ec2_arn}:fleet/*", "${local.ec2_arn}:instance/*", "${local.ec2_arn}:volume/*"]

    condition {
      test     = "StringEquals"
      variable = "aws:RequestTag/${local.mark_key}"
      values   = [var.name]
    }
  }

  # What a launch uses.
  statement {
    sid     = "LaunchFrom"
    actions = ["ec2:CreateFleet", "ec2:RunInstances"]
    resources = concat(
      [
        aws_launch_template.node.arn,
        aws_security_group.node.arn,
        "arn:${local.partition}:ec2:${local.region}::image/*",
        "arn:${local.partition}:ec2:${local.region}::snapshot/*",
        "${local.ec2_arn}:network-interface/*",
      ],
      [for id in local.subnet_ids : "${local.ec2_arn}:subnet/${id}"],
    )
  }

  statement {
    sid       = "MarkWhatIsLaunched"
    actions   = ["ec2:CreateTags"]
    resources = ["${local.ec2_arn}:fleet/*", "${local.ec2_arn}:instance/*", "${local.ec2_arn}:volume/*"]

    condition {
      test     = "StringEquals"
      variable = "ec2:CreateAction"
      values   = ["CreateFleet", "RunInstances"]
    }
  }

  statement {
    sid       = "EndMarked"
    actions   = ["ec2:TerminateInstances"]
    resources = ["${local.ec2_arn}:instance/*"]

    condition {
      test     = "StringEquals"
      variable = "aws:ResourceTag/${local.mark_key}"
      values   = [var.name]
    }

    # The control plane carries the mark as well.
    condition {
      test     = "ArnEquals"
      variable = "ec2:InstanceProfile"
      values   = [aws_iam_instance_profile.node.arn]
    }
  }

  statement {
    sid       = "GiveNodesTheirRole"
    actions   = ["iam:PassRole"]
    resources = [aws_iam_role.node.arn]

    condition {
      test     = "StringEquals"
      variable = "iam:PassedToService"
      values   = ["ec2.amazonaws.com"]
    }
  }

  # An account that has never used spot instances or fleets has not got these roles yet.
  statement {
    sid       = "FirstSpotInstanceOfAnAccount"
    actions   = ["iam:CreateServiceLinkedRole"]
    resources = ["arn:${local.partition}:iam::${local.account}:role/aws-service-role/*"]

    condition {
      test     = "StringEquals"
      variable = "iam:AWSServiceName"
      values   = ["spot.amazonaws.com", "ec2fleet.amazonaws.com"]
    }
  }

  statement {
    sid       = "TakeNotices"
    actions   = ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"]
    resources = [aws_sqs_queue.notices.arn]
  }

  statement {
    sid       = "FindInArchive"
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.archive.arn]
  }

  statement {
    sid       = "KeepInArchive"
    actions   = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
    resources = ["${aws_s3_bucket.archive.arn}/*"]
  }
}
